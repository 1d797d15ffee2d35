package budget

import (
	"context"
	"strings"

	"gantry/internal/control"
)

// Report tells what is stored, and how much of it is shared.
func (b *Budget) Report(ctx context.Context) (control.Disk, error) {
	d, err := b.disk()
	if err != nil {
		return control.Disk{}, err
	}
	holdings, err := b.holdings(ctx)
	if err != nil {
		return control.Disk{}, err
	}
	out := control.Disk{TotalBytes: d.total, FreeBytes: d.free, FloorBytes: d.floor, LimitBytes: d.limit, TakenBytes: taken(holdings)}
	out.Kinds, out.Images = kinds(holdings), images(holdings)
	return out, nil
}

// use is who has a part.
type use struct {
	bytes int64
	by    map[Kind]int // holdings
	all   int
	needs bool // one of them never goes
}

func uses(holdings []Holding) map[string]*use {
	out := map[string]*use{}
	for _, h := range holdings {
		for _, p := range h.Parts {
			u := out[p.ID]
			if u == nil {
				u = &use{bytes: p.Bytes, by: map[Kind]int{}}
				out[p.ID] = u
			}
			u.by[h.Kind]++
			u.all++
			u.needs = u.needs || h.Needs != ""
		}
	}
	return out
}

func kinds(holdings []Holding) []control.DiskKind {
	parts := uses(holdings)
	var out []control.DiskKind
	for _, k := range []Kind{Image, Copy, Result, Mount, Container, Lease} {
		row := control.DiskKind{Kind: string(k)}
		for _, h := range holdings {
			if h.Kind == k && len(h.Parts) > 0 {
				row.Count++
			}
		}
		for _, u := range parts {
			if u.by[k] == 0 {
				continue
			}
			row.Bytes += u.bytes
			if u.by[k] == u.all {
				row.OwnBytes += u.bytes
			}
			if !u.needs {
				row.FreeBytes += u.bytes
			}
		}
		out = append(out, row)
	}
	return out
}

func images(holdings []Holding) []control.DiskImage {
	out := []control.DiskImage{}
	parts := uses(holdings)
	for _, h := range holdings {
		if h.Kind != Image {
			continue
		}
		row := control.DiskImage{ID: strings.TrimPrefix(h.ID, "sha256:"), Names: h.Names, Needs: h.Needs}
		for _, p := range h.Parts {
			row.Bytes += p.Bytes
			if parts[p.ID].all == 1 {
				row.UniqueBytes += p.Bytes
			}
		}
		out = append(out, row)
	}
	return out
}
