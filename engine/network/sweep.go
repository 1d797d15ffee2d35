package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"gantry/internal/nft"
)

// sweep removes the pinned namespaces and the links that belong to nothing.
func (h *Host) sweep(live Live) error {
	entries, err := os.ReadDir(h.namespacesDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains(live.Namespaces, e.Name()) {
			continue
		}
		if err := unpin(filepath.Join(h.namespacesDir(), e.Name())); err != nil {
			return err
		}
	}
	keep := make(map[string]bool)
	for _, n := range h.networks {
		keep[n.Link] = true
	}
	for _, ep := range h.endpoints {
		keep[ep.HostLink] = true
	}
	return h.links.removeOthers(h.cfg.Instance.LinkPrefix(), keep)
}

// removeOthers removes the links named like ours that are not to be kept. Those
// of a namespace that is just going may be gone before their turn.
func (l *links) removeOthers(prefix string, keep map[string]bool) error {
	all, err := whole(l.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	own := ownLink(prefix)
	var errs []error
	for _, link := range all {
		if name := link.Attrs().Name; own.MatchString(name) && !keep[name] {
			errs = append(errs, l.remove(name))
		}
	}
	return errors.Join(errs...)
}

// Close releases the held ports and sockets. Bridges, endpoints, published
// ports' rules and namespaces stay, for the next Restore. Nothing else may run
// or be called any more.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.publications {
		p.close()
	}
	for path, n := range h.handles {
		n.close()
		delete(h.handles, path)
	}
	if h.names != nil {
		h.names.Shutdown()
	}
	if h.routes != nil {
		h.routes.Close()
	}
	var err error
	if h.table != nil {
		err = h.table.Close()
	}
	if h.table6 != nil {
		err = errors.Join(err, h.table6.Close())
	}
	if h.links != nil {
		h.links.close()
	}
	return err
}

// Purge removes every trace of the instance from the host: bridges, links,
// table, namespaces, files. Nothing may be attached any more; it needs no
// Restore before it, and is not to be called on a Host that had one.
func (h *Host) Purge(ctx context.Context) error {
	inst := h.cfg.Instance
	table, err := nft.Open(nft.IPv4, inst.Table())
	if err != nil {
		return err
	}
	table6, err := nft.Open(nft.IPv6, inst.Table())
	if err != nil {
		return errors.Join(err, table.Close())
	}
	links, err := openLinks()
	if err != nil {
		return errors.Join(err, table.Close(), table6.Close())
	}
	defer links.close()
	errs := []error{table.Delete(ctx), table.Close(), table6.Delete(ctx), table6.Close()}
	if err := h.loadNetworks(); err == nil { // those with links of the user's names
		for _, n := range h.networks {
			errs = append(errs, links.removeNamed(n, inst.LinkPrefix()))
		}
	}
	entries, err := os.ReadDir(h.namespacesDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		errs = append(errs, unpin(filepath.Join(h.namespacesDir(), e.Name())))
	}
	_, out := detourLinks(inst.LinkPrefix())
	errs = append(errs, links.remove(out), links.remove(inst.Bridge()), links.remove(inst.PodBridge()), links.removeOthers(inst.LinkPrefix(), nil),
		os.RemoveAll(h.networksDir()), os.RemoveAll(h.namespacesDir()))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("purge network: %w", err)
	}
	return nil
}
