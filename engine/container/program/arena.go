package program

import (
	"syscall"
	"unsafe"
)

// Arena is memory outside of Go's heap for a program and what it is decoded
// from: far the most that a shim needs, for a moment. Freed, it is the host's
// again at once, while garbage would stay the shim's for as long as it lives.
// A nil Arena gives memory of the heap. Only what has no pointers into the heap
// may be kept in it.
type Arena struct{ mem, free []byte }

// NewArena returns one with room for size bytes, or nil if there is no memory
// to be had. Pages that are not written to cost nothing.
func NewArena(size int) *Arena {
	mem, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil
	}
	return &Arena{mem: mem, free: mem}
}

// Bytes returns n zero bytes, at an address that is a multiple of 8.
func (a *Arena) Bytes(n int) []byte {
	size := (n + 7) &^ 7
	if a == nil || size > len(a.free) {
		return make([]byte, n)
	}
	b := a.free[:n:n]
	a.free = a.free[size:]
	return b
}

// slice returns n zero values.
func slice[T Op | op](a *Arena, n int) []T {
	var one T
	size := n * int(unsafe.Sizeof(one))
	if a == nil || n == 0 || size > len(a.free) {
		return make([]T, n)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&a.Bytes(size)[0])), n)
}

// Ops returns n operations.
func (a *Arena) Ops(n int) []Op { return slice[Op](a, n) }

// Free gives the memory back; nothing that came from a may be used any more.
func (a *Arena) Free() {
	if a != nil && a.mem != nil {
		_ = syscall.Munmap(a.mem) // of what was mapped: cannot fail
		a.mem, a.free = nil, nil
	}
}
