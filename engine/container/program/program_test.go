package program

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// execute runs a list on this thread, as Pre does.
func execute(t *testing.T, b *Builder, l *List) (*Loaded, string, syscall.Errno) {
	t.Helper()
	p := b.Program(l, b.List(), b.List())
	loaded, ok := Load(&p)
	if !ok {
		t.Fatal("the program was refused")
	}
	message, errno := loaded.Pre()
	return loaded, b.Message(message), errno
}

func TestRegistersAndData(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	b := NewBuilder()
	l := b.List()
	fd, n := b.Reg(), b.Reg()
	l.Call(unix.SYS_OPENAT, Cwd, b.Str(path), Val(unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC), Val(0o600)).Into(fd)
	l.Call(unix.SYS_WRITE, InReg(fd), b.Str("text"), Val(4)).Into(n)
	l.Call(unix.SYS_CLOSE, InReg(fd))
	loaded, message, errno := execute(t, b, l)
	if errno != 0 || loaded.Regs[n] != 4 {
		t.Errorf("%s: %v, wrote %d", message, errno, loaded.Regs[n])
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "text" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

func TestFailuresSkipsAndTolerance(t *testing.T) {
	missing := func(b *Builder, l *List) *Op {
		return l.Call(unix.SYS_OPENAT, Cwd, b.Str("/no/such/file"), Val(unix.O_RDONLY))
	}
	cases := map[string]struct {
		build   func(b *Builder, l *List)
		message string
		errno   syscall.Errno
	}{
		"a failure ends it with its message": {func(b *Builder, l *List) {
			l.Doing("open it")
			missing(b, l)
			l.Doing("not reached")
			l.Raise(unix.EIO)
		}, "open it", unix.ENOENT},
		"a tolerated error goes on": {func(b *Builder, l *List) {
			missing(b, l).Allow(unix.EPERM, unix.ENOENT)
		}, "", 0},
		"another error does not": {func(b *Builder, l *List) {
			l.Doing("open it")
			missing(b, l).Allow(unix.EPERM)
		}, "open it", unix.ENOENT},
		"all errors may be tolerated": {func(b *Builder, l *List) { missing(b, l).AllowAll() }, "", 0},
		"a tolerated error skips": {func(b *Builder, l *List) {
			from := l.Len()
			missing(b, l).AllowAll()
			l.Raise(unix.EIO)
			l.FailTo(from)
		}, "", 0},
		"a success does not skip what an error would": {func(b *Builder, l *List) {
			l.Doing("raise")
			from := l.Len()
			l.Call(unix.SYS_GETPID).AllowAll()
			l.Raise(unix.EIO)
			l.FailTo(from)
		}, "raise", unix.EIO},
		"a success skips": {func(b *Builder, l *List) {
			from := l.Len()
			l.Call(unix.SYS_GETPID)
			l.Raise(unix.EIO)
			l.SkipTo(from)
		}, "", 0},
	}
	for name, c := range cases {
		b := NewBuilder()
		l := b.List()
		c.build(b, l)
		if _, message, errno := execute(t, b, l); message != c.message || errno != c.errno {
			t.Errorf("%s: %q, %v; want %q, %v", name, message, errno, c.message, c.errno)
		}
	}
}

func TestPointersAreResolved(t *testing.T) {
	b := NewBuilder()
	b.Str("x") // what follows is aligned all the same
	array := b.Pointers([]string{"one", "two"})
	l := b.List()
	l.Call(unix.SYS_GETPID, array)
	p := b.Program(l, b.List(), b.List())
	loaded, ok := Load(&p)
	if !ok {
		t.Fatal("refused")
	}
	at := *(*[3]*byte)(unsafe.Pointer(&loaded.data[array.value]))
	if got := unix.BytePtrToString(at[0]) + " " + unix.BytePtrToString(at[1]); got != "one two" || at[2] != nil {
		t.Errorf("the array points to %q, %v", got, at[2])
	}
	for name, bad := range map[string]Program{
		"an address outside":  {Pre: []Op{{Kinds: Data, Args: [6]uint64{1}}}},
		"a register too high": {Pre: []Op{{Dst: Registers}}},
		"a relocation":        {Relocs: []Reloc{{At: 8, To: 0}}, Data: make([]byte, 8)},
	} {
		if _, ok := Load(&bad); ok {
			t.Errorf("%s was loaded", name)
		}
	}
}

func TestAChildReportsWaitsAndFails(t *testing.T) {
	b := NewBuilder()
	child := b.List()
	child.Sync(7, Val(42))
	child.Doing("the end")
	child.Raise(unix.EXDEV)
	p := b.Program(b.List(), child, b.List())
	l, ok := Load(&p)
	if !ok {
		t.Fatal("refused")
	}
	var status, release [2]int
	for _, p := range []*[2]int{&status, &release} {
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(p[0])
		defer unix.Close(p[1])
	}
	runtime.LockOSThread()
	pid, pidfd, errno := l.Clone(0, -1, status[1], release[0])
	runtime.UnlockOSThread()
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(pidfd)
	record := func() [3]uint32 {
		t.Helper()
		var r [3]uint32
		if n, err := unix.Read(status[0], unsafe.Slice((*byte)(unsafe.Pointer(&r)), 12)); n != 12 || err != nil {
			t.Fatal(n, err)
		}
		return r
	}
	if got := record(); got != [3]uint32{RecordSync, 7, 42} {
		t.Errorf("first record %v", got)
	}
	if _, err := unix.Write(release[1], []byte{1}); err != nil {
		t.Fatal(err)
	}
	if got := record(); got[0] != RecordFailed || b.Message(uint16(got[1])) != "the end" || unix.Errno(got[2]) != unix.EXDEV {
		t.Errorf("second record %v", got)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil || ws.ExitStatus() != 1 {
		t.Errorf("the child ended with %v, %v", ws, err)
	}
}
