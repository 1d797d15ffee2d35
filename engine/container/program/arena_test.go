package program

import "testing"

func TestArena(t *testing.T) {
	a := NewArena(4096)
	first, second := a.Bytes(3), a.Bytes(8)
	copy(first, "abc")
	copy(second, "12345678")
	if string(first) != "abc" || string(second) != "12345678" || cap(first) != 3 {
		t.Errorf("%q, %q, %d", first, second, cap(first))
	}
	ops := a.Ops(4)
	for i := range ops {
		ops[i].Nr = uint32(i)
	}
	if string(second) != "12345678" || ops[3].Nr != 3 {
		t.Errorf("operations lie over %q", second)
	}
	if more := a.Bytes(1 << 20); len(more) != 1<<20 {
		t.Error("what has no room is the heap's")
	}
	a.Free()
	a.Free()
	if got := a.Bytes(5); len(got) != 5 {
		t.Error("a freed arena gives memory of the heap")
	}
	var none *Arena
	none.Free()
	if len(none.Bytes(5)) != 5 || len(none.Ops(2)) != 2 {
		t.Error("a nil arena gives memory of the heap")
	}
}

func TestAProgramInAnArena(t *testing.T) {
	b := NewBuilder()
	pre, child, post := b.List(), b.List(), b.List()
	pre.Call(39).Into(9) // getpid
	child.Call(1, b.Str("x"))
	p := b.Program(pre, child, post)
	a := NewArena(1 << 16)
	l, ok := LoadIn(a, &p)
	if !ok {
		t.Fatal("not loaded")
	}
	if _, errno := l.Pre(); errno != 0 || l.Regs[9] == 0 {
		t.Errorf("errno %v, register %d", errno, l.Regs[9])
	}
	a.Free()
}
