package cgroup

import (
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// OOMWatcher tells of OOM kills in groups when they happen. Run is its one
// goroutine. Its methods may be called concurrently.
type OOMWatcher struct {
	epoll *os.File

	mu     sync.Mutex
	groups map[int]*oomGroup // by descriptor; nil when closed
}

// oomGroup is a group that is watched by one descriptor: of memory.events, or of
// an eventfd that v1's memory.oom_control was told to signal.
type oomGroup struct {
	group *Group
	fd    int
	kills uint64 // as far as they were told
	told  chan struct{}

	looking bool // a later look is due; v1
}

// NewOOMWatcher returns a watcher, which takes one descriptor and one more for
// each group.
func NewOOMWatcher() (*OOMWatcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch for OOM kills: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that Close ends Run
		unix.Close(fd)
		return nil, fmt.Errorf("watch for OOM kills: %w", err)
	}
	return &OOMWatcher{epoll: os.NewFile(uintptr(fd), "epoll"), groups: map[int]*oomGroup{}}, nil
}

// Watch returns a channel that receives after OOM kills in the group, those of
// before too unless known; kills that nobody has received yet are told as one.
// stop, which may be called more than once, gives the watch up. On a host that
// does not tell of kills the channel stays silent.
func (w *OOMWatcher) Watch(g *Group, known bool) (kills <-chan struct{}, stop func(), err error) {
	silent := func() {}
	if !exists(g.OOMFile()) {
		return nil, silent, nil
	}
	o := &oomGroup{group: g, told: make(chan struct{}, 1)} // one: see above
	events, err := o.open()
	if err != nil {
		return nil, silent, fmt.Errorf("watch for OOM kills in cgroup %s: %w", g.name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groups == nil {
		unix.Close(o.fd)
		return nil, silent, os.ErrClosed
	}
	if err := w.control(unix.EPOLL_CTL_ADD, o.fd, events); err != nil {
		unix.Close(o.fd)
		return nil, silent, fmt.Errorf("watch for OOM kills in cgroup %s: %w", g.name, err)
	}
	w.groups[o.fd] = o
	// Only now: what comes from here on is an event.
	if known {
		o.kills = counter(text(g.OOMFile()), "oom_kill")
	} else {
		o.tellNow()
	}
	return o.told, sync.OnceFunc(func() { w.forget(o) }), nil
}

// open opens what is to be polled, and returns for what.
func (o *oomGroup) open() (events uint32, err error) {
	file := o.group.OOMFile()
	if o.group.host.Pure() {
		o.fd, err = unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return unix.EPOLLPRI, err
	}
	oom, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer oom.Close()
	if o.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return 0, err
	}
	control := path.Join(path.Dir(file), "cgroup.event_control")
	if err := os.WriteFile(control, fmt.Appendf(nil, "%d %d", o.fd, oom.Fd()), 0); err != nil {
		unix.Close(o.fd)
		return 0, err
	}
	return unix.EPOLLIN, nil
}

// tell makes known that there were so many kills, and says whether that is news.
func (o *oomGroup) tell(kills uint64) bool {
	if kills <= o.kills {
		return false
	}
	o.kills = kills
	select {
	case o.told <- struct{}{}:
	default:
	}
	return true
}

func (w *OOMWatcher) control(op, fd int, events uint32) error {
	raw, err := w.epoll.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Control(func(epoll uintptr) {
		failure = unix.EpollCtl(int(epoll), op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	})
	if err != nil {
		return err
	}
	return failure
}

func (w *OOMWatcher) forget(o *oomGroup) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groups[o.fd] == o {
		delete(w.groups, o.fd)
		unix.Close(o.fd) // which takes it out of the epoll as well
	}
}

// Run watches until Close.
func (w *OOMWatcher) Run() {
	raw, err := w.epoll.SyscallConn()
	if err != nil {
		return // closed
	}
	var events [16]unix.EpollEvent
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events[:], 0)
			return n > 0
		})
		if err != nil {
			return
		}
		for _, ev := range events[:n] {
			w.look(int(ev.Fd))
		}
	}
}

// look sees what has happened in the group of a descriptor.
func (w *OOMWatcher) look(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.groups[fd]
	if o == nil {
		return // forgotten meanwhile
	}
	if !o.group.host.Pure() {
		var count [8]byte
		_, _ = unix.Read(fd, count[:]) // which ends the event
		if !o.looking && !o.tellNow() {
			w.lookAgain(o, firstLook)
		}
		return
	}
	// Read by the descriptor, which ends the event.
	data, err := io.ReadAll(io.NewSectionReader(readerAt(fd), 0, 4096))
	if err != nil {
		_ = w.control(unix.EPOLL_CTL_DEL, fd, 0) // removed; it would be ready for ever
		return
	}
	o.tell(counter(string(data), "oom_kill"))
}

// tellNow reads how many kills there were. None in a group that is gone.
func (o *oomGroup) tellNow() bool { return o.tell(counter(text(o.group.OOMFile()), "oom_kill")) }

// v1 signals that memory has run out, some time before something is killed for
// it, and has no event for the kill. It is looked for at twice the time again.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 5 * time.Second
)

// lookAgain looks for the kill after wait, and later while there is none.
func (w *OOMWatcher) lookAgain(o *oomGroup, wait time.Duration) {
	o.looking = true
	time.AfterFunc(wait, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		o.looking = false
		if w.groups[o.fd] == o && !o.tellNow() && wait < lastLook {
			w.lookAgain(o, 2*wait)
		}
	})
}

// readerAt reads a descriptor that somebody else closes.
type readerAt int

func (fd readerAt) ReadAt(p []byte, offset int64) (int, error) {
	n, err := unix.Pread(int(fd), p, offset)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return max(n, 0), err
}

// Close ends Run and all watches.
func (w *OOMWatcher) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for fd := range w.groups {
		unix.Close(fd)
	}
	w.groups = nil
	return w.epoll.Close()
}
