package dockerapi

import (
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/common"
	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
)

// commit makes an image of a container. Changes come one a parameter, or
// several with newlines between.
func (c *call) commit() error {
	req := engine.CommitRequest{Comment: c.query.Get("comment"), Author: c.query.Get("author"), Pause: true}
	if c.query.Has("pause") {
		req.Pause = c.query.bool("pause")
	}
	var config dcontainer.Config
	if err := c.decode(&config); err != nil {
		return err
	}
	req.Config = &config
	for _, change := range c.query.Values["changes"] {
		for line := range strings.SplitSeq(change, "\n") {
			if strings.TrimSpace(line) != "" {
				req.Changes = append(req.Changes, line)
			}
		}
	}
	var err error
	if req.Ref, err = nameAndTag(c.query.Get("repo"), c.query.Get("tag")); err != nil {
		return err
	}
	img, err := c.cfg.Engine.Commit(c.r.Context(), c.query.Get("container"), req)
	if err != nil {
		return err
	}
	return c.answer(http.StatusCreated, common.IDResponse{ID: img.ID.String()})
}
