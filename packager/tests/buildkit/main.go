// Command margay-buildkit builds Dockerfiles with BuildKit's own packages, without a daemon: its parser and converter make a
// graph, its file backend carries the graph out in temporary folders. It reads situations as JSON from its standard input and
// writes what each one gives: the config of the image and every file in it.
//
// It needs root, as BuildKit's backend gives files away and makes device nodes. RUN and sources from the network are refused.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// Situation is a Dockerfile and what it is built with.
type Situation struct {
	Context    string            `json:"context"`
	Dockerfile string            `json:"dockerfile"`
	Ignore     []string          `json:"ignore"` // candidates for the ignore file, the first that exists wins
	Args       map[string]string `json:"args"`
	Target     string            `json:"target"`
	Bases      []Base            `json:"bases"`
}

// Base is an image that FROM or COPY --from can name.
type Base struct {
	Name       string `json:"name"`
	Dockerfile string `json:"dockerfile"`
}

// Outcome is an image, or why there is none.
type Outcome struct {
	Error  string          `json:"error,omitempty"`
	Config json.RawMessage `json:"config,omitempty"`
	Author string          `json:"author,omitempty"`
	Tree   []Entry         `json:"tree,omitempty"`
}

// Entry is a file. Names and contents are hexadecimal, because not all of them are UTF-8.
type Entry struct {
	Path    string `json:"path"`
	Kind    string `json:"kind"`
	Mode    uint32 `json:"mode"`
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Target  string `json:"target,omitempty"`
	Content string `json:"content,omitempty"`
}

type image struct {
	config []byte
	root   string
}

type images map[string]image

func main() {
	syscall.Umask(0)
	var situations []Situation
	if err := json.NewDecoder(os.Stdin).Decode(&situations); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	outcomes := make([]Outcome, 0, len(situations))
	for _, situation := range situations {
		outcomes = append(outcomes, situation.outcome())
	}
	if err := json.NewEncoder(os.Stdout).Encode(outcomes); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (s Situation) outcome() (outcome Outcome) {
	scratch, err := os.MkdirTemp("", "margay-buildkit")
	if err != nil {
		return Outcome{Error: err.Error()}
	}
	defer os.RemoveAll(scratch)
	defer func() {
		if cause := recover(); cause != nil {
			outcome = Outcome{Error: fmt.Sprint("panic: ", cause)}
		}
	}()
	known := images{}
	for _, base := range s.Bases {
		built, _, err := s.build(scratch, base.Dockerfile, "", nil, known)
		if err != nil {
			return Outcome{Error: "base " + base.Name + ": " + err.Error()}
		}
		known["docker.io/library/"+base.Name+":latest"] = built
	}
	built, author, err := s.build(scratch, s.Dockerfile, s.Target, s.Args, known)
	if err != nil {
		return Outcome{Error: err.Error()}
	}
	var config struct {
		Config json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(built.config, &config); err != nil {
		return Outcome{Error: err.Error()}
	}
	tree, err := list(built.root)
	if err != nil {
		return Outcome{Error: err.Error()}
	}
	return Outcome{Config: config.Config, Author: author, Tree: tree}
}

func (s Situation) build(scratch, dockerfile, target string, args map[string]string, known images) (image, string, error) {
	ctx := context.Background()
	text, err := os.ReadFile(dockerfile)
	if err != nil {
		return image{}, "", err
	}
	options := dockerfile2llb.ConvertOpt{MetaResolver: known}
	options.Target = target
	options.BuildArgs = args
	caps := pb.Caps.CapSet(pb.Caps.All())
	options.LLBCaps = &caps
	result, err := dockerfile2llb.Dockerfile2LLB(ctx, text, options)
	if err != nil {
		return image{}, "", err
	}
	definition, err := result.State.Marshal(ctx, llb.WithCaps(caps))
	if err != nil {
		return image{}, "", err
	}
	solver := solver{scratch: scratch, context: s.Context, ignore: s.Ignore, images: known, done: map[digest.Digest]string{}}
	root, err := solver.solve(ctx, definition)
	if err != nil {
		return image{}, "", err
	}
	// An image with layers is looked up by its name, one without is taken for scratch.
	result.Image.RootFS.DiffIDs = []digest.Digest{digest.FromString(root)}
	config, err := json.Marshal(result.Image)
	return image{config: config, root: root}, result.Image.Author, err
}

// ResolveImageConfig gives the config of a base.
func (known images) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	found, ok := known[ref]
	if !ok {
		return "", "", nil, fmt.Errorf("%s: not found", ref)
	}
	return ref, "", found.config, nil
}

func list(root string) ([]Entry, error) {
	var entries []Entry
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		entry, err := describe(root, path)
		entries = append(entries, entry)
		return err
	})
	return entries, err
}

func describe(root, path string) (Entry, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Entry{}, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	entry := Entry{
		Path: hex.EncodeToString([]byte(strings.TrimPrefix(path, root+"/"))),
		Mode: stat.Mode & 0o7777,
		UID:  stat.Uid,
		GID:  stat.Gid,
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		entry.Kind = "dir"
	case mode.IsRegular():
		entry.Kind = "file"
		content, err := os.ReadFile(path)
		if err != nil {
			return entry, err
		}
		entry.Content = hex.EncodeToString(content)
	case mode&fs.ModeSymlink != 0:
		entry.Kind = "link"
		target, err := os.Readlink(path)
		if err != nil {
			return entry, err
		}
		entry.Target = hex.EncodeToString([]byte(target))
	default:
		entry.Kind = mode.Type().String()
	}
	return entry, nil
}
