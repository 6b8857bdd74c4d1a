package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"unsafe"

	"github.com/containerd/containerd/v2/core/mount"
	rooted "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver/llbsolver/file"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
	"github.com/opencontainers/go-digest"
	fscopy "github.com/tonistiigi/fsutil/copy"
)

// solver carries out a graph: each vertex is a folder that is not changed again.
type solver struct {
	scratch string
	context string
	ignore  []string
	images  images
	ops     map[digest.Digest]*pb.Op
	done    map[digest.Digest]string // by digest and output
}

func (s *solver) solve(ctx context.Context, definition *llb.Definition) (string, error) {
	s.ops = map[digest.Digest]*pb.Op{}
	var last *pb.Op
	for _, bytes := range definition.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(bytes); err != nil {
			return "", err
		}
		s.ops[digest.FromBytes(bytes)] = op
		last = op
	}
	if last == nil || len(last.Inputs) == 0 {
		return s.folder()
	}
	return s.input(ctx, last.Inputs[0])
}

func (s *solver) folder() (string, error) {
	folder, err := os.MkdirTemp(s.scratch, "")
	if err != nil {
		return "", err
	}
	return folder, os.Chmod(folder, 0o755)
}

func (s *solver) input(ctx context.Context, input *pb.Input) (string, error) {
	key := digest.Digest(fmt.Sprint(input.Digest, " ", input.Index))
	if folder, ok := s.done[key]; ok {
		return folder, nil
	}
	op, ok := s.ops[digest.Digest(input.Digest)]
	if !ok {
		return "", fmt.Errorf("no vertex %s", input.Digest)
	}
	folders, err := s.carryOut(ctx, op)
	if err != nil {
		return "", err
	}
	for index, folder := range folders {
		s.done[digest.Digest(fmt.Sprint(input.Digest, " ", index))] = folder
	}
	return s.done[key], nil
}

func (s *solver) carryOut(ctx context.Context, op *pb.Op) ([]string, error) {
	inputs := make([]string, 0, len(op.Inputs))
	for _, input := range op.Inputs {
		folder, err := s.input(ctx, input)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, folder)
	}
	switch op := op.Op.(type) {
	case *pb.Op_Source:
		folder, err := s.source(ctx, op.Source)
		return []string{folder}, err
	case *pb.Op_File:
		return s.files(ctx, op.File, inputs)
	case *pb.Op_Merge:
		folder, err := s.merge(op.Merge, inputs)
		return []string{folder}, err
	default:
		return nil, fmt.Errorf("%T is not carried out here", op)
	}
}

func (s *solver) source(ctx context.Context, source *pb.SourceOp) (string, error) {
	if name, ok := strings.CutPrefix(source.Identifier, "docker-image://"); ok {
		found, ok := s.images[name]
		if !ok {
			return "", fmt.Errorf("%s: not found", name)
		}
		return found.root, nil
	}
	if source.Identifier != "local://context" {
		return "", fmt.Errorf("%s is not fetched here", source.Identifier)
	}
	var follow []string
	if list := source.Attrs[pb.AttrFollowPaths]; list != "" {
		if err := json.Unmarshal([]byte(list), &follow); err != nil {
			return "", err
		}
	}
	folder, err := s.folder()
	if err != nil {
		return "", err
	}
	return folder, transfer(ctx, s.context, s.ignore, follow, folder)
}

func (s *solver) files(ctx context.Context, op *pb.FileOp, inputs []string) ([]string, error) {
	backend, err := file.NewFileOpBackend(readUser)
	if err != nil {
		return nil, err
	}
	folders := append([]string{}, inputs...)
	outputs := map[int]string{}
	for _, action := range op.Actions {
		folder, err := s.folder()
		if err != nil {
			return nil, err
		}
		if action.Input >= 0 {
			if err := duplicate(folders[action.Input], folder); err != nil {
				return nil, err
			}
		}
		if err := s.act(ctx, backend, action, folder, folders); err != nil {
			return nil, err
		}
		folders = append(folders, folder)
		if action.Output >= 0 {
			outputs[int(action.Output)] = folder
		}
	}
	list := make([]string, len(outputs))
	for index, folder := range outputs {
		list[index] = folder
	}
	return list, nil
}

func (s *solver) act(ctx context.Context, backend *file.Backend, action *pb.FileAction, folder string, folders []string) error {
	target := mountOf(folder)
	switch a := action.Action.(type) {
	case *pb.FileAction_Mkdir:
		users, groups, err := owners(a.Mkdir.Owner, folders)
		if err != nil {
			return err
		}
		return backend.Mkdir(ctx, target, users, groups, a.Mkdir)
	case *pb.FileAction_Mkfile:
		users, groups, err := owners(a.Mkfile.Owner, folders)
		if err != nil {
			return err
		}
		return backend.Mkfile(ctx, target, users, groups, a.Mkfile)
	case *pb.FileAction_Copy:
		source, err := s.folder()
		if err != nil {
			return err
		}
		if action.SecondaryInput >= 0 {
			source = folders[action.SecondaryInput]
		}
		for _, path := range a.Copy.RequiredPaths {
			found, err := rooted.RootPath(source, path)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(found); err != nil {
				return fmt.Errorf("%s: not found", path)
			}
		}
		users, groups, err := owners(a.Copy.Owner, folders)
		if err != nil {
			return err
		}
		return backend.Copy(ctx, mountOf(source), target, users, groups, a.Copy)
	default:
		return fmt.Errorf("%T is not carried out here", a)
	}
}

// merge puts each input over the ones before it, as overlayfs shows layers.
func (s *solver) merge(op *pb.MergeOp, inputs []string) (string, error) {
	merged, err := s.folder()
	if err != nil {
		return "", err
	}
	for _, input := range op.Inputs {
		if err := fscopy.Copy(context.Background(), inputs[input.Input], "/", merged, "/", func(ci *fscopy.CopyInfo) {
			ci.CopyDirContents = true
			ci.AlwaysReplaceExistingDestPaths = true
		}); err != nil {
			return "", err
		}
	}
	return merged, nil
}

// duplicate copies a tree as it is.
func duplicate(from, to string) error {
	return fscopy.Copy(context.Background(), from, "/", to, "/", func(ci *fscopy.CopyInfo) { ci.CopyDirContents = true })
}

// folderMount is a folder as BuildKit's backend wants it.
type folderMount string

func (f folderMount) Mount() ([]mount.Mount, func() error, error) {
	mounts := []mount.Mount{{Type: "bind", Source: string(f), Options: []string{"rbind"}}}
	return mounts, func() error { return nil }, nil
}

func (folderMount) IdentityMapping() *user.IdentityMapping { return nil }

// mountOf fills the one field of file.Mount that its package keeps to itself: elsewhere only a snapshotter could.
func mountOf(folder string) *file.Mount {
	mount := &file.Mount{}
	field := reflect.ValueOf(mount).Elem().FieldByName("m")
	mountable := reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem()
	mountable.Set(reflect.ValueOf(folderMount(folder)))
	return mount
}

// owners gives the trees in which the names of a user and of a group are looked up.
func owners(owner *pb.ChownOpt, folders []string) (*file.Mount, *file.Mount, error) {
	tree := func(option *pb.UserOpt) (*file.Mount, error) {
		named, ok := option.GetUser().(*pb.UserOpt_ByName)
		if !ok {
			return mountOf(os.DevNull), nil
		}
		if named.ByName.Input < 0 || int(named.ByName.Input) >= len(folders) {
			return nil, fmt.Errorf("invalid user index: %d", named.ByName.Input)
		}
		return mountOf(folders[named.ByName.Input]), nil
	}
	users, err := tree(owner.GetUser())
	if err != nil {
		return nil, nil, err
	}
	groups, err := tree(owner.GetGroup())
	return users, groups, err
}

func readUser(owner *pb.ChownOpt, users, groups snapshot.Mountable) (*fscopy.User, error) {
	if owner == nil {
		return nil, nil
	}
	var found fscopy.User
	switch option := owner.User.GetUser().(type) {
	case *pb.UserOpt_ByID:
		found.UID, found.GID = int(option.ByID), int(option.ByID)
	case *pb.UserOpt_ByName:
		list, err := user.ParsePasswdFileFilter(inTree(users, "etc/passwd"), func(u user.User) bool {
			return u.Name == option.ByName.Name
		})
		if err == nil && len(list) > 0 {
			found.UID, found.GID = list[0].Uid, list[0].Gid
		}
	}
	switch option := owner.Group.GetUser().(type) {
	case *pb.UserOpt_ByID:
		found.GID = int(option.ByID)
	case *pb.UserOpt_ByName:
		list, err := user.ParseGroupFileFilter(inTree(groups, "etc/group"), func(g user.Group) bool {
			return g.Name == option.ByName.Name
		})
		if err == nil && len(list) > 0 {
			found.GID = list[0].Gid
		}
	}
	return &found, nil
}

func inTree(tree snapshot.Mountable, path string) string {
	folder, _ := tree.(folderMount)
	return filepath.Join(string(folder), path)
}
