package dockerapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/distribution/reference"
	devents "github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/builder"
	"gantry/engine/image"
	"gantry/internal/problem"
)

// platforms reads the parameter platform of requests about images, which is JSON
// and may be given several times.
func (c *call) platforms() ([]ocispec.Platform, error) {
	var list []ocispec.Platform
	for _, text := range c.query.Values["platform"] {
		if text == "" {
			continue
		}
		var p ocispec.Platform
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return nil, invalid("failed to parse platform: %w", err)
		}
		if p.OS == "" || p.Architecture == "" {
			return nil, invalid("both OS and Architecture must be provided")
		}
		list = append(list, p)
	}
	return list, nil
}

// checkPlatform refuses an image which is for none of the platforms, if any are
// named: an image of the store is for one.
func checkPlatform(img image.Image, ref string, wanted []ocispec.Platform) error {
	if len(wanted) == 0 || image.ForOneOf(img, wanted) {
		return nil
	}
	return problem.New(problem.NotFound, "image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
		ref, image.FormatPlatform(img.Platform()), image.FormatPlatform(wanted[0]))
}

// resolvePlatform finds the image that a request is about.
func (c *call) resolvePlatform(ref string) (image.Image, error) {
	wanted, err := c.platforms()
	if err != nil {
		return image.Image{}, err
	}
	img, err := c.cfg.Images.Resolve(c.r.Context(), ref)
	if err != nil {
		return img, err
	}
	return img, checkPlatform(img, ref, wanted)
}

func (c *call) saveImages() error {
	refs := c.vars
	if len(refs) == 0 {
		refs = c.query.Values["names"]
	}
	if len(refs) == 0 {
		return invalid("no images named")
	}
	for _, ref := range refs {
		// What is not an image may name all the tags of a repository.
		if _, err := c.resolvePlatform(ref); err != nil && (!repository(ref) || c.query.Get("platform") != "") {
			return err
		}
	}
	c.w.Header().Set("Content-Type", "application/x-tar")
	return c.cfg.Images.Save(c.r.Context(), begins{c}, refs)
}

// repository tells whether ref may name all the tags of a repository.
func repository(ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	return err == nil && reference.IsNameOnly(named)
}

func (c *call) loadImages() error {
	wanted, err := c.platforms()
	if err != nil {
		return err
	}
	out := c.progress()
	quiet := c.query.bool("quiet")
	images, err := c.cfg.Images.LoadFor(c.r.Context(), c.r.Body, wanted, func(ev image.Event) {
		switch {
		case ev.Stream != "":
			out.send(jsonstream.Message{Stream: ev.Stream})
		case !quiet:
			out.send(jsonstream.Message{
				Status: ev.Status, ID: shortID(ev.Layer.Encoded()), Progress: &jsonstream.Progress{Current: ev.Current, Total: ev.Total},
			})
		}
	})
	for _, img := range images {
		c.cfg.Engine.Emit(devents.ImageEventType, devents.ActionLoad, img.ID.String(), map[string]string{"name": img.ID.String()})
	}
	return out.end(err)
}

// createImage imports an archive, or pulls.
func (c *call) createImage() error {
	if from := c.query.Get("fromImage"); from != "" {
		return c.pullImage(from)
	}
	platform, err := c.platform()
	if err != nil {
		return err
	}
	ref, err := nameAndTag(c.query.Get("repo"), c.query.Get("tag"))
	if err != nil {
		return err
	}
	source := c.query.Get("fromSrc")
	opts := image.ImportOptions{Ref: ref, Message: c.query.Get("message"), Source: source}
	if platform != nil {
		opts.Config.Platform = *platform
	}
	if opts.Config, err = builder.Changes(opts.Config, c.query.Values["changes"]); err != nil {
		return err
	}
	out := c.progress()
	archive := c.r.Body
	if source != "-" {
		if archive, err = c.download(source, out); err != nil {
			return err
		}
		defer archive.Close()
	}
	id, err := c.cfg.Images.Import(c.r.Context(), archive, opts)
	if err != nil {
		return out.end(err)
	}
	c.cfg.Engine.Emit(devents.ImageEventType, devents.ActionImport, id.String(), map[string]string{"name": ref})
	out.send(jsonstream.Message{Status: id.String()})
	return out.end(nil)
}

// download opens an archive that the daemon is to fetch, and says how far it has
// been read.
func (c *call) download(source string, out *progress) (io.ReadCloser, error) {
	if !strings.Contains(source, "://") {
		source = "http://" + source
	}
	at, err := url.Parse(source)
	if err != nil {
		return nil, invalid("%w", err)
	}
	req, err := http.NewRequestWithContext(c.r.Context(), http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, invalid("%w", err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, problem.New(problem.NotFound, "%w", err)
	}
	if answer.StatusCode >= http.StatusBadRequest {
		defer answer.Body.Close()
		return nil, problem.New(problem.NotFound, "failed to GET %s with status %s", at.Redacted(), answer.Status)
	}
	out.send(jsonstream.Message{Status: fmt.Sprintf("Downloading from %s", at.Redacted())})
	return &downloaded{ReadCloser: answer.Body, out: out, total: max(answer.ContentLength, 0)}, nil
}

// downloaded tells how far an archive has been read: every so often, not at each
// of many small reads.
type downloaded struct {
	io.ReadCloser
	out                *progress
	read, total, shown int64
}

const downloadStep = 512 << 10 // bytes between two messages, as in the reference

func (d *downloaded) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	d.read += int64(n)
	if d.read-d.shown >= downloadStep || err == io.EOF && d.read > d.shown {
		d.shown = d.read
		d.out.send(jsonstream.Message{Status: "Importing", Progress: &jsonstream.Progress{Current: d.read, Total: d.total}})
	}
	return n, err
}
