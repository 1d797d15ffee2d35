package engine

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/builder"
	"gantry/engine/image"
	"gantry/internal/problem"
)

// CommitRequest says what image is made of a container.
type CommitRequest struct {
	Ref     string // name for it; empty: none
	Comment string
	Author  string
	Config  *dcontainer.Config // overrides the container's; nil: nothing
	Changes []string           // Dockerfile instructions
	Pause   bool               // the container while its files are read
}

// Commit makes an image of a container's files and configuration.
//
// Errors: NotFound, Conflict, Invalid (a change).
func (e *Engine) Commit(ctx context.Context, ref string, req CommitRequest) (image.Image, error) {
	r, err := e.find(ref)
	if err != nil {
		return image.Image{}, err
	}
	if err := r.lock(ctx); err != nil {
		return image.Image{}, err
	}
	defer r.unlock()
	cfg, st := r.view()
	// The image may have been removed by force; then nobody knows its history.
	parent, err := e.cfg.Images.Resolve(ctx, cfg.Image.String())
	if err != nil && !errors.Is(err, problem.NotFound) {
		return image.Image{}, err
	}
	spec, err := commitSpec(cfg, parent, req, time.Now().UTC())
	if err != nil {
		return image.Image{}, err
	}
	if this := r.running(); this != nil && req.Pause && st.Status == dcontainer.StateRunning {
		if err := this.proc.Pause(ctx); err != nil {
			return image.Image{}, err
		}
		defer func() {
			if err := this.proc.Resume(context.WithoutCancel(ctx)); err != nil {
				e.log.Error("container stays paused after a commit", "container", r.id, "err", err)
			}
		}()
	}
	lease := "commit " + newID()
	defer e.cfg.Images.EndLease(lease)
	layer, err := e.cfg.Images.CopyLayer(ctx, lease, filepath.Join(r.dir, "upper"))
	if err != nil {
		return image.Image{}, err
	}
	opts := image.CreateOptions{Parent: cfg.Image}
	if req.Ref != "" {
		opts.Tags = []string{req.Ref}
	}
	img, err := e.cfg.Images.Create(ctx, spec, append(cfg.Layers[:len(cfg.Layers):len(cfg.Layers)], layer.DiffID), opts)
	if err != nil {
		return image.Image{}, err
	}
	e.emit(r, devents.ActionCommit, map[string]string{"comment": req.Comment, "imageID": img.ID.String(), "imageRef": req.Ref})
	return img, nil
}

// commitSpec is the configuration of the image that is made of a container.
func commitSpec(cfg *config, parent image.Image, req CommitRequest, now time.Time) (image.Spec, error) {
	c := cfg.Config
	if req.Config != nil {
		merged, err := mergeImage(req.Config, imageConfig(c))
		if err != nil {
			return image.Spec{}, err
		}
		c = merged
	}
	spec := image.Spec{}
	spec.Created, spec.Author, spec.Platform = &now, req.Author, image.Host()
	spec.Config = *imageConfig(c)
	spec.History = append(parent.Config.History[:len(parent.Config.History):len(parent.Config.History)], ocispec.History{
		Created: &now, Author: req.Author, Comment: req.Comment,
		CreatedBy: strings.TrimSpace(cfg.Path + " " + strings.Join(cfg.Args, " ")),
	})
	return builder.Changes(spec, req.Changes)
}
