package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"gantry/internal/problem"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// handle is a network namespace in use: its descriptor and an rtnetlink socket
// inside it, which any thread may use.
type handle struct {
	*requester
	space int // descriptor
}

func (n *handle) close() {
	n.requester.close()
	_ = unix.Close(n.space)
}

// onOwnThread runs do on a thread that dies afterwards, so that do may leave
// its namespaces.
func onOwnThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- do()
	}()
	return <-done
}

// Namespace returns the path at which the namespace of id is, or would be, pinned.
func (h *Host) Namespace(id string) string { return filepath.Join(h.namespacesDir(), id) }

// NewNamespace makes a network namespace with lo up, pins it and returns its
// path. Ports below 1024 are free to unprivileged processes in it, and so is
// ping, as in Docker. Errors: Exists.
func (h *Host) NewNamespace(ctx context.Context, id string) (string, error) {
	if id == "" || strings.ContainsAny(id, "/\x00") || id[0] == '.' {
		return "", problem.New(problem.Invalid, "network namespace %q: not a name", id)
	}
	path := h.Namespace(id)
	if err := h.finishRemoval(ctx, path); err != nil {
		return "", err
	}
	n, err := makeNamespace(path)
	if errors.Is(err, fs.ErrExist) {
		return "", problem.New(problem.Exists, "network namespace %s already exists", id)
	}
	if err != nil {
		return "", fmt.Errorf("network namespace %s: %w", id, err)
	}
	h.mu.Lock()
	h.handles[path] = n
	h.mu.Unlock()
	return path, nil
}

// makeNamespace pins a fresh namespace at path, which must not exist.
func makeNamespace(path string) (n *handle, err error) {
	pin, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: err}
	}
	_ = unix.Close(pin)
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if n, err = openHandle("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if err := n.loopbackUp(); err != nil {
			return err
		}
		if err := containerDefaults(); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin at %s: %w", path, err)
		}
		return nil
	})
	if err != nil && n != nil {
		n.close()
		n = nil
	}
	return n, err
}

// containerDefaults sets what Docker sets in each container's namespace. IPv6
// is off on interfaces to come, until one gets an IPv6 address; lo keeps its ::1.
func containerDefaults() error {
	return errors.Join(
		writeOnce("ipv4/ip_unprivileged_port_start", "0"),
		writeOnce("ipv4/ping_group_range", "0 2147483647"),
		ignoreMissing(writeOnce("ipv6/conf/default/disable_ipv6", "1")),
	)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// openHandle opens the namespace at path, in which the calling thread is.
func openHandle(path string) (*handle, error) {
	space, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	socket, err := openRequester()
	if err != nil {
		return nil, errors.Join(err, unix.Close(space))
	}
	return &handle{socket, space}, nil
}

// enter returns the handle that NewNamespace left, or opens one.
func (h *Host) enter(path string) (n *handle, err error) {
	h.mu.Lock()
	n, ok := h.handles[path]
	delete(h.handles, path)
	h.mu.Unlock()
	if ok {
		return n, nil
	}
	err = onOwnThread(func() error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		n, err = openHandle(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return n, nil
}

// configure brings the interface up with its addresses and, unless it is
// secondary, the default routes. A pod gets no route to its own subnet.
func (n *handle) configure(ep *Endpoint, pod bool, req AttachRequest) error {
	index, _, err := n.index(ep.Interface)
	if err != nil {
		return err
	}
	if err := n.setSysctls(ep, req.Sysctls); err != nil {
		return err
	}
	var b batch
	flags := uint32(0)
	if pod {
		flags = unix.IFA_F_NOPREFIXROUTE
	}
	b.address(index, ep.Address, flags, unix.RT_SCOPE_UNIVERSE)
	if ep.Address6.IsValid() {
		// There is nobody who could have it: no waiting for an answer.
		b.address(index, ep.Address6, unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE)
	}
	for _, a := range req.LinkLocal {
		bits := 16
		if a.Is6() {
			bits = 64
		}
		b.address(index, netip.PrefixFrom(a, bits), 0, unix.RT_SCOPE_LINK)
	}
	b.linkUp(ep.Interface, index)
	if !req.Secondary {
		b.defaultRoutes(index, ep)
	}
	return n.do(&b)
}

// setSysctls writes the interface's settings. IPv6 is off by default.
func (n *handle) setSysctls(ep *Endpoint, wanted map[string]string) error {
	if !ep.Address6.IsValid() && len(wanted) == 0 {
		return nil
	}
	return n.run(func() error {
		if ep.Address6.IsValid() {
			if err := writeSysctl("ipv6/conf/"+ep.Interface+"/disable_ipv6", "0"); err != nil {
				return err
			}
		}
		for _, key := range slices.Sorted(maps.Keys(wanted)) {
			if err := writeSysctl(strings.ReplaceAll(key, "IFNAME", ep.Interface), wanted[key]); err != nil {
				return problem.New(problem.Invalid, "%w", err)
			}
		}
		return nil
	})
}

// run runs do on a thread in the namespace.
func (n *handle) run(do func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(n.space, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		return do()
	})
}

// links runs do with all of rtnetlink in the namespace.
func (n *handle) links(do func(*netlink.Handle) error) error {
	return n.run(func() error {
		inside, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open rtnetlink: %w", err)
		}
		defer inside.Close()
		return do(inside)
	})
}

// remove deletes an interface; it succeeds when there is none.
func (n *handle) remove(name string) error {
	return n.links(func(inside *netlink.Handle) error {
		link, err := inside.LinkByName(name)
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			return nil
		}
		if err == nil {
			err = inside.LinkDel(link)
		}
		return err
	})
}

// RemoveNamespace unpins the namespace of id; the kernel removes it and its
// links when the last process in it is gone. It returns before that, and
// succeeds when there is none.
func (h *Host) RemoveNamespace(_ context.Context, id string) error {
	path := h.Namespace(id)
	h.mu.Lock()
	n := h.handles[path]
	delete(h.handles, path)
	if h.removals[path] == nil {
		h.removals[path] = &removal{done: make(chan struct{})}
	}
	h.mu.Unlock()
	if n != nil {
		n.close()
	}
	h.names.Close(id) // its sockets would keep the namespace
	signal(h.doomed)
	return nil
}

// removal is a namespace that is to be unpinned.
type removal struct {
	begun bool
	done  chan struct{} // closed when it is unpinned, or cannot be
}

// beginRemoval claims a waiting removal, of path or, when path is "", of any.
// The claimer calls endRemoval. A removal that somebody else has begun is
// returned with claimed false.
func (h *Host) beginRemoval(path string) (found string, r *removal, claimed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if path != "" {
		r = h.removals[path]
		if r == nil || r.begun {
			return path, r, false
		}
		r.begun = true
		return path, r, true
	}
	for found, r := range h.removals {
		if !r.begun {
			r.begun = true
			return found, r, true
		}
	}
	return "", nil, false
}

func (h *Host) endRemoval(path string, r *removal) {
	h.mu.Lock()
	delete(h.removals, path)
	h.mu.Unlock()
	close(r.done)
}

// finishRemoval unpins the namespace that a container had before it was
// restarted, if that is still waiting.
func (h *Host) finishRemoval(ctx context.Context, path string) error {
	_, r, claimed := h.beginRemoval(path)
	if claimed {
		defer h.endRemoval(path, r)
		return unpin(path)
	}
	if r == nil {
		return nil
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// removeDoomed unpins what RemoveNamespace left. What is still waiting when ctx
// ends is removed by the next Restore.
func (h *Host) removeDoomed(ctx context.Context) error {
	for {
		select {
		case <-h.doomed:
		case <-ctx.Done():
			return nil
		}
		for path, r, ok := h.beginRemoval(""); ok; path, r, ok = h.beginRemoval("") {
			if err := unpin(path); err != nil {
				h.log.Warn("network namespace stays", "path", path, "err", err)
			}
			h.endRemoval(path, r)
		}
	}
}

// unpin removes a pinned namespace; it succeeds when there is none.
func unpin(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
