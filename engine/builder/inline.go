package builder

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// inlineArgument is the build argument that puts the build cache of an image's
// last stage into it, for --cache-from elsewhere.
const inlineArgument = "BUILDKIT_INLINE_CACHE"

// inlineMark begins the comment, in a line of an image's history, that holds the
// cache key of the step which made the line's layer.
const inlineMark = "gantry.cache.v1 "

// importCaches reads the build caches that are in the images of --cache-from. As
// in the reference, one that cannot be had does not end the build.
func (r *run) importCaches(ctx context.Context) error {
	for _, name := range r.req.CacheFrom {
		img, err := r.base(ctx, name, r.platform, r.req.Platform != "")
		if context.Cause(ctx) != nil {
			return err
		}
		found := 0
		if err == nil {
			found, err = r.importCache(img)
		}
		if err == nil && found == 0 {
			err = fmt.Errorf("it holds no build cache; build it with --build-arg %s=1", inlineArgument)
		}
		if err != nil {
			r.emit(Event{Kind: Warning, Text: fmt.Sprintf("[Warning] importing cache from %s: %v", name, err)})
		}
	}
	return nil
}

// importCache takes the results that an image's history has keys for. They are
// for this build alone: whoever made the image could have written any key.
func (r *run) importCache(img image.Image) (found int, err error) {
	layer := 0
	for _, h := range img.Config.History {
		if h.EmptyLayer {
			continue
		}
		if layer++; layer > len(img.Layers) {
			return found, problem.New(problem.Invalid, "its history has more layers than it has")
		}
		k, ok := strings.CutPrefix(h.Comment, inlineMark)
		if !ok {
			continue
		}
		res := result{Layer: img.Layers[layer-1], Created: time.Unix(0, 0).UTC()}
		if h.Created != nil {
			res.Created = h.Created.UTC()
		}
		if r.imported == nil {
			r.imported = map[cacheKey]result{}
		}
		r.imported[cacheKey(k)] = res
		found++
	}
	return found, nil
}

// exportsInline reads the build argument that asks for an inline cache.
func exportsInline(given map[string]*string) (bool, error) {
	v := given[inlineArgument]
	if v == nil || *v == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(*v)
	if err != nil {
		return false, problem.New(problem.Invalid, "failed to parse build-arg:%s: %w", inlineArgument, errors.Unwrap(err))
	}
	return on, nil
}
