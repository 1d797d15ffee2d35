package dockerapi

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
)

// archivePath returns the path in the container that a request is about.
func (c *call) archivePath() (string, error) {
	path := c.query.Get("path")
	if path == "" {
		return "", invalid("bad parameter: path cannot be empty")
	}
	return path, nil
}

// setPathStat says in the answer's header what the path is.
func (c *call) setPathStat(stat dcontainer.PathStat) error {
	data, err := json.Marshal(stat)
	if err != nil {
		return err
	}
	c.w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(data))
	return nil
}

func (c *call) statArchive() error {
	path, err := c.archivePath()
	if err != nil {
		return err
	}
	stat, err := c.cfg.Engine.StatPath(c.r.Context(), c.vars[0], path)
	if err != nil {
		return err
	}
	if err := c.setPathStat(stat); err != nil {
		return err
	}
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) getArchive() error {
	path, err := c.archivePath()
	if err != nil {
		return err
	}
	return c.cfg.Engine.ArchivePath(c.r.Context(), c.vars[0], path, func(stat dcontainer.PathStat) io.Writer {
		c.w.Header().Set("Content-Type", "application/x-tar")
		if err := c.setPathStat(stat); err != nil {
			c.log.Error("path stat", "err", err) // a struct of strings and numbers
		}
		return begins{c}
	})
}

func (c *call) putArchive() error {
	path, err := c.archivePath()
	if err != nil {
		return err
	}
	err = c.cfg.Engine.ExtractPath(c.r.Context(), c.vars[0], path, engine.ExtractOptions{
		NoOverwriteDirNonDir: c.query.bool("noOverwriteDirNonDir"), ContainerOwner: c.query.bool("copyUIDGID"),
	}, c.r.Body)
	if err != nil {
		return err
	}
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) export() error {
	c.w.Header().Set("Content-Type", "application/octet-stream")
	return c.cfg.Engine.Export(c.r.Context(), c.vars[0], begins{c})
}
