package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
)

// aim is a figure by its name, and what it is to be.
type aim struct{ name, want string }

// beside takes the same figures, by their names, of docker where it is installed
// and of Gantry.
func (b *bench) beside(ctx context.Context, aims []aim, measure func(context.Context, *target, *bytes.Buffer) (map[string]string, error)) ([]row, error) {
	own, server, err := b.gantryTarget(&bytes.Buffer{})
	if err != nil {
		return nil, err
	}
	peer := map[string]string{}
	log := &bytes.Buffer{}
	if t := b.dockerdTarget(log); t != nil {
		peer, err = measure(ctx, t, log)
		if t.cmd != nil {
			err = errors.Join(err, t.cmd.Process.Signal(os.Interrupt))
			_ = t.cmd.Wait() // it was asked to end
		}
		if err != nil {
			return nil, fmt.Errorf("docker: %w", err)
		}
	}
	got, err := measure(ctx, own, server.log)
	if err = errors.Join(err, server.stop(b)); err != nil {
		return nil, err
	}
	var rows []row
	for _, a := range aims {
		figure := ""
		if peer[a.name] != "" {
			figure = "docker " + peer[a.name]
		}
		rows = append(rows, row{a.name, figure, got[a.name], a.want})
	}
	return rows, nil
}
