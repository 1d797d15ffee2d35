package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gantry/internal/instance"
	"gantry/internal/nft"
)

// Check explains each way in which the kernel or this process differs from what
// live, the engine's records, and the networks' records say: interfaces,
// namespaces, addresses, published ports, and the nftables table. What is in the
// middle of being made or removed may be among it.
func (h *Host) Check(ctx context.Context, live Live) []error {
	errs := h.checkAllocations(live)
	errs = append(errs, h.checkFiles()...)
	errs = append(errs, h.checkPins(live)...)
	errs = append(errs, h.checkLinks(live)...)
	return append(errs, h.checkTables(ctx))
}

// checkAllocations compares what this process has given out with the records.
func (h *Host) checkAllocations(live Live) (errs []error) {
	endpoints := map[string]bool{}
	for _, ep := range live.Endpoints {
		endpoints[ep.ID] = true
	}
	published := map[string]bool{}
	for _, p := range live.Publications {
		published[p.Container] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, ep := range h.endpoints {
		if !endpoints[id] {
			errs = append(errs, fmt.Errorf("address %s on network %s is taken for container %s, which does not have it", ep.Address, ep.Name, ep.Container))
		}
	}
	for _, ep := range live.Endpoints {
		if h.endpoints[ep.ID] == nil {
			errs = append(errs, fmt.Errorf("container %s has address %s on network %s, which is not taken for it", ep.Container, ep.Address, ep.Name))
		}
		if h.networks[ep.Network] == nil {
			errs = append(errs, fmt.Errorf("container %s is on network %s, which does not exist", ep.Container, ep.Name))
		}
	}
	for id := range h.publications {
		if !published[id] {
			errs = append(errs, fmt.Errorf("ports are published for container %s, which has none", id))
		}
	}
	for id := range published {
		if h.publications[id] == nil {
			errs = append(errs, fmt.Errorf("the ports of container %s are not published", id))
		}
	}
	return errs
}

// checkFiles compares the networks on disk with those in memory.
func (h *Host) checkFiles() (errs []error) {
	entries, err := os.ReadDir(h.networksDir())
	if err != nil {
		return []error{err}
	}
	h.mu.Lock()
	known := maps.Clone(h.networks)
	h.mu.Unlock()
	for _, e := range entries {
		n, err := readNetwork(filepath.Join(h.networksDir(), e.Name()))
		switch {
		case err != nil:
			errs = append(errs, err)
		case known[n.ID] == nil:
			errs = append(errs, fmt.Errorf("networks/%s describes a network that does not exist", e.Name()))
		}
	}
	return errs
}

// checkPins compares the pinned namespaces with those in use.
func (h *Host) checkPins(live Live) (errs []error) {
	entries, err := os.ReadDir(h.namespacesDir())
	if err != nil {
		return []error{err}
	}
	pinned := map[string]bool{}
	for _, e := range entries {
		pinned[e.Name()] = true
		h.mu.Lock()
		going := h.removals[h.Namespace(e.Name())] != nil
		h.mu.Unlock()
		if !going && !slices.Contains(live.Namespaces, e.Name()) {
			errs = append(errs, fmt.Errorf("the network namespace netns/%s belongs to nothing that runs", e.Name()))
		}
	}
	for _, id := range live.Namespaces {
		if !pinned[id] {
			errs = append(errs, fmt.Errorf("container %s runs without its network namespace netns/%s", id, id))
		}
	}
	return errs
}

// checkLinks compares the host's interfaces with the networks and endpoints.
func (h *Host) checkLinks(live Live) (errs []error) {
	links, err := openLinks()
	if err != nil {
		return []error{err}
	}
	defer links.close()
	all, err := whole(links.LinkList)
	if err != nil {
		return []error{fmt.Errorf("list interfaces: %w", err)}
	}
	missing := map[string]string{}
	for _, ep := range live.Endpoints {
		if ep.HostLink != "" {
			missing[ep.HostLink] = "container " + ep.Container
		}
	}
	there := map[string]bool{}
	for _, link := range all {
		there[link.Attrs().Name] = true
	}
	h.mu.Lock()
	for _, n := range h.networks {
		if n.Link != "" {
			missing[n.Link] = "network " + n.Name
		}
	}
	known := maps.Clone(missing)
	maps.DeleteFunc(h.leaving, func(name string, _ bool) bool { return !there[name] })
	for name := range h.leaving { // it goes with its namespace, in the kernel's own time
		known[name] = "nobody any more"
	}
	h.mu.Unlock()
	own := ownLink(h.cfg.Instance.LinkPrefix())
	for _, link := range all {
		name := link.Attrs().Name
		delete(missing, name)
		if known[name] == "" && own.MatchString(name) {
			errs = append(errs, fmt.Errorf("interface %s belongs to no container and no network", name))
		}
	}
	for name, owner := range missing {
		errs = append(errs, fmt.Errorf("interface %s of %s is not there", name, owner))
	}
	return errs
}

// checkTables compares the kernel's tables with those that the state wants.
func (h *Host) checkTables(ctx context.Context) error {
	if h.table == nil {
		return errors.New("the nftables table is not open")
	}
	h.mu.Lock()
	want, had6 := map[*nft.Conn]*nft.Table{h.table: h.describeLocked(dialect4)}, h.had6
	if had6 {
		want[h.table6] = h.describeLocked(dialect6)
	}
	h.mu.Unlock()
	for table, want := range want {
		differs, err := table.Differs(ctx, want)
		if err != nil {
			return err
		}
		if differs {
			return fmt.Errorf("nftables table %s %s is not what the networks and published ports want", want.Family, want.Name)
		}
	}
	return nil
}

// CheckStopped explains each violation in the networks' records of an instance
// that does not run.
func CheckStopped(inst instance.Config) (errs []error) {
	h := &Host{cfg: Config{Instance: inst}}
	entries, err := os.ReadDir(h.networksDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return []error{err}
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".tmp-") {
			continue // an interrupted write, which the next start removes
		}
		if _, err := readNetwork(filepath.Join(h.networksDir(), e.Name())); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
