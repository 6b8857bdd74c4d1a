package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
)

// transfer sends a build context to a folder, as a client of BuildKit sends it to the daemon.
func transfer(ctx context.Context, from string, ignore, follow []string, to string) error {
	excluded, err := excludedPatterns(from, ignore)
	if err != nil {
		return err
	}
	files, err := fsutil.NewFS(from)
	if err != nil {
		return err
	}
	files, err = fsutil.NewFilterFS(files, &fsutil.FilterOpt{Map: func(_ string, stat *types.Stat) fsutil.MapResult {
		stat.Uid, stat.Gid = 0, 0
		return fsutil.MapResultKeep
	}})
	if err != nil {
		return err
	}
	files, err = fsutil.NewFilterFS(files, &fsutil.FilterOpt{ExcludePatterns: excluded, FollowPaths: follow})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	forth, back := make(chan []byte, 64), make(chan []byte, 64)
	sender, receiver := stream{ctx, forth, back}, stream{ctx, back, forth}
	group.Go(func() error {
		defer close(forth)
		return fsutil.Send(ctx, sender, files, nil)
	})
	group.Go(func() error { return fsutil.Receive(ctx, receiver, to, fsutil.ReceiveOpt{}) })
	return group.Wait()
}

func excludedPatterns(from string, candidates []string) ([]string, error) {
	for _, name := range candidates {
		file, err := os.Open(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return ignorefile.ReadAll(file)
	}
	return nil, nil
}

// stream is one end of a connection in memory. Messages are encoded, so that what the wire refuses is refused here.
type stream struct {
	ctx     context.Context
	out, in chan []byte
}

func (s stream) Context() context.Context { return s.ctx }

func (s stream) SendMsg(message any) error {
	bytes, err := message.(*types.Packet).MarshalVT()
	if err != nil {
		return err
	}
	select {
	case s.out <- bytes:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s stream) RecvMsg(message any) error {
	select {
	case bytes, ok := <-s.in:
		if !ok {
			return io.EOF
		}
		packet := message.(*types.Packet)
		packet.Reset()
		return packet.UnmarshalVT(bytes)
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
