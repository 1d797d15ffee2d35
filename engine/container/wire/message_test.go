package wire

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gantry/engine/container/program"
)

func sample() Create {
	b := program.NewBuilder()
	pre, child, post := b.List(), b.List(), b.List()
	child.Doing("first")
	child.Call(1, program.Val(-1), program.InReg(9), b.Str("text")).Allow(2, 17).Into(9)
	child.Call(2, b.Pointers([]string{"a", "b"})).AllowAll()
	child.Raise(2)
	child.SkipTo(0)
	pre.Call(3)
	post.Call(4, program.Cwd)
	return Create{
		Process: Process{Terminal: true, OpenStdin: true, Clone: 1 << 40, CgroupReg: -1, UIDMap: "0 1 2\n", GIDMap: "3 4 5\n",
			Program: b.Program(pre, child, post)},
		LogFormat: "cri", LogPath: "/log", MaxBytes: -1, MaxFiles: 3, ExitPath: "/exit", OOMPath: "/oom", KillPath: "/procs",
		LogAttrs: `{"a":"b"}`, LogBuffer: 1 << 20,
	}
}

func TestMessagesSurviveTheWire(t *testing.T) {
	want := sample()
	var e Encoder
	want.Encode(&e)
	var got Create
	d := &Decoder{B: e.B}
	got.Decode(d)
	if diff := cmp.Diff(want, got); diff != "" || d.Bad || len(d.B) != 0 {
		t.Errorf("bad %v, %d bytes left (-want +got)\n%s", d.Bad, len(d.B), diff)
	}
	optional := len(e.B) - (4 + len(want.LogAttrs)) - 8
	for n := range len(e.B) {
		if n == optional {
			continue // an engine of before these fields
		}
		d := &Decoder{B: e.B[:n]}
		if got.Decode(d); !d.Bad {
			t.Fatalf("the first %d of %d bytes were taken for a message", n, len(e.B))
		}
	}
	reply := Reply{Failure: FailProgram, A: 1, B: 2, State: State{Pid: 3, Started: true}}
	e = Encoder{}
	reply.Encode(&e)
	var gotReply Reply
	gotReply.Decode(&Decoder{B: e.B})
	exit := Exit{Process: "x", Code: 137, OOM: true, At: 1 << 60}
	e = Encoder{}
	exit.Encode(&e)
	var gotExit Exit
	gotExit.Decode(&Decoder{B: e.B})
	if diff := cmp.Diff(reply, gotReply); diff != "" || gotExit != exit {
		t.Errorf("%s; got %+v, want %+v", diff, gotExit, exit)
	}
	reply.Execs = []ExecState{{ID: "a", Note: []byte("note"), Pid: 9}, {ID: "b", Note: []byte("x"), Code: 3, At: 1 << 60}}
	e = Encoder{}
	reply.Encode(&e)
	gotReply.Decode(&Decoder{B: e.B})
	if diff := cmp.Diff(reply, gotReply); diff != "" {
		t.Error(diff)
	}
}

func TestAnOldShimReadsAnExecWithANote(t *testing.T) {
	c := sample()
	p := c.Process
	p.Note = []byte("note")
	var e Encoder
	p.Encode(&e)
	plain := len(e.B)
	p.EncodeNote(&e)
	var got Process
	d := &Decoder{B: e.B}
	if got.Decode(d); d.Bad || len(d.B) != len(e.B)-plain {
		t.Errorf("bad %v, %d bytes left", d.Bad, len(d.B))
	}
	if got.DecodeNote(d); string(got.Note) != "note" {
		t.Errorf("note %q", got.Note)
	}
}

func TestStreamHeaders(t *testing.T) {
	var h [HeaderSize]byte
	for _, n := range []int{0, 1, MaxChunk} {
		PutHeader(h[:], Stderr, n)
		if s, got := Header(h[:]); s != Stderr || got != n {
			t.Errorf("header of %d bytes came back as %d of stream %d", n, got, s)
		}
	}
}

func FuzzCreate(f *testing.F) {
	c := sample()
	var e Encoder
	c.Encode(&e)
	f.Add(e.B)
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Create
		d := &Decoder{B: data}
		c.Decode(d)
		if d.Bad {
			return
		}
		// What decodes is either loaded or refused.
		program.Load(&c.Process.Program)
	})
}

// FuzzReply reads any bytes as what a shim sends: what decodes is the same after
// another way over the wire.
func FuzzReply(f *testing.F) {
	for _, r := range []Reply{{}, {Failure: FailErrno, A: StepClone, B: 12}, {State: State{Pid: 3, Started: true, Exited: true}},
		{Execs: []ExecState{{ID: "a", Note: []byte("note"), Pid: 9}, {ID: "b", Note: []byte{0}, Code: 3, At: 1 << 60}}}} {
		var e Encoder
		r.Encode(&e)
		f.Add(e.B)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r, again Reply
		d := &Decoder{B: data}
		if r.Decode(d); d.Bad {
			return
		}
		var e Encoder
		r.Encode(&e)
		d = &Decoder{B: e.B}
		if again.Decode(d); d.Bad || len(d.B) != 0 {
			t.Fatalf("%+v does not decode", r)
		}
		if diff := cmp.Diff(r, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-first +again)\n%s", diff)
		}
	})
}

func FuzzExit(f *testing.F) {
	for _, x := range []Exit{{}, {Process: "x", Code: 137, OOM: true, At: 1 << 60}} {
		var e Encoder
		x.Encode(&e)
		f.Add(e.B)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var x, again Exit
		d := &Decoder{B: data}
		if x.Decode(d); d.Bad {
			return
		}
		var e Encoder
		x.Encode(&e)
		if again.Decode(&Decoder{B: e.B}); again != x {
			t.Errorf("%+v came back as %+v", x, again)
		}
	})
}
