package dockerapi

import (
	"net/http"
	"strconv"
	"time"

	dbuild "github.com/moby/moby/api/types/build"
	devents "github.com/moby/moby/api/types/events"
	dimage "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"gantry/engine"
	"gantry/engine/builder"
	"gantry/engine/image"
	"gantry/internal/problem"
)

// layerUse is how much the layers of images take, and how many images have each.
type layerUse struct {
	bytes   map[digest.Digest]int64
	sharers map[digest.Digest]int
}

func (c *call) layerUse(images []image.Image) (layerUse, error) {
	use := layerUse{map[digest.Digest]int64{}, map[digest.Digest]int{}}
	for _, img := range images {
		own := map[digest.Digest]bool{} // an image may have a layer twice
		for _, id := range img.Layers {
			if own[id] {
				continue
			}
			own[id] = true
			layer, err := c.cfg.Images.Layer(c.r.Context(), id)
			if err != nil {
				return use, err
			}
			use.bytes[id] = layer.Bytes
			use.sharers[id]++
		}
	}
	return use, nil
}

// shared returns the bytes of an image that other images have too.
func (u layerUse) shared(img image.Image) (n int64) {
	for _, id := range img.Layers {
		if u.sharers[id] > 1 {
			n += u.bytes[id]
		}
	}
	return n
}

func (c *call) sharedSizes(images []image.Image) (map[digest.Digest]int64, error) {
	use, err := c.layerUse(images)
	if err != nil {
		return nil, err
	}
	sizes := map[digest.Digest]int64{}
	for _, img := range images {
		sizes[img.ID] = use.shared(img)
	}
	return sizes, nil
}

func (c *call) imageUsage() (*dimage.DiskUsage, error) {
	images, err := c.cfg.Images.List(c.r.Context())
	if err != nil {
		return nil, err
	}
	use, err := c.layerUse(images)
	if err != nil {
		return nil, err
	}
	users := c.cfg.Engine.Usage()
	usage := &dimage.DiskUsage{Items: []dimage.Summary{}, TotalCount: int64(len(images))}
	for _, bytes := range use.bytes {
		usage.TotalSize += bytes
	}
	usage.Reclaimable = usage.TotalSize
	inUse := map[digest.Digest]bool{}
	for _, img := range images {
		summary := c.imageSummary(img)
		summary.Containers, summary.SharedSize = int64(users[summary.ID]), use.shared(img)
		if summary.Containers > 0 {
			usage.ActiveCount++
			for _, id := range img.Layers {
				if !inUse[id] {
					inUse[id] = true
					usage.Reclaimable -= use.bytes[id]
				}
			}
		}
		usage.Items = append(usage.Items, summary)
	}
	return usage, nil
}

// buildUsage returns what the build cache has. A layer that an image has too is
// counted with the image.
func (c *call) buildUsage() (*dbuild.DiskUsage, error) {
	usage := &dbuild.DiskUsage{Items: []dbuild.CacheRecord{}}
	if c.cfg.Builder == nil {
		return usage, nil
	}
	records, err := c.cfg.Builder.Usage(c.r.Context())
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		item := dbuild.CacheRecord{ID: r.ID, Type: "regular", Shared: r.Shared, Size: r.Bytes, CreatedAt: r.Created}
		if !r.Used.IsZero() {
			item.LastUsedAt = &r.Used
		}
		usage.Items = append(usage.Items, item)
		if !r.Shared {
			usage.TotalSize += r.Bytes
		}
	}
	usage.TotalCount, usage.Reclaimable = int64(len(records)), usage.TotalSize
	return usage, nil
}

// pruneBuilds forgets what the build cache has.
func (c *call) pruneBuilds() error {
	if c.cfg.Builder == nil {
		return problem.New(problem.Unsupported, "building is turned off")
	}
	if err := c.query.refuse("max-used-space", "min-free-space"); err != nil {
		return err
	}
	opts, err := c.buildPrune(time.Now())
	if err != nil {
		return err
	}
	report, err := c.cfg.Builder.Prune(c.r.Context(), opts)
	if err != nil {
		return err
	}
	c.pruned(devents.BuilderEventType, report.Reclaimed)
	return c.answer(http.StatusOK, dbuild.CachePruneReport{CachesDeleted: []string{}, SpaceReclaimed: uint64(report.Reclaimed)})
}

// buildPrune reads what is to be forgotten. A filter that nothing in the cache
// has a value for, such as label, keeps everything.
func (c *call) buildPrune(now time.Time) (opts builder.PruneOptions, err error) {
	filters, err := c.query.filters()
	if err != nil {
		return opts, err
	}
	opts = builder.PruneOptions{Before: now, Mounts: true}
	for name, values := range filters {
		opts.Mounts = false
		switch name {
		case "until", "unused-for":
			if len(values) != 1 {
				return opts, invalid("invalid filter '%s': expected one value", name)
			}
			if opts.Before, err = engine.ParseTime(values[0], now); err != nil {
				return opts, invalid("invalid filter '%s=%s'", name, values[0])
			}
		default:
			return builder.PruneOptions{}, nil
		}
	}
	for _, name := range []string{"keep-storage", "reserved-space"} {
		bytes, err := c.query.int(name)
		if err != nil {
			return opts, err
		}
		if bytes > 0 {
			opts.Keep, opts.Mounts = bytes, false
		}
	}
	return opts, nil
}

// pruned records what a prune gave back as an event.
func (c *call) pruned(kind devents.Type, bytes int64) {
	c.cfg.Engine.Emit(kind, devents.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatInt(bytes, 10)})
}
