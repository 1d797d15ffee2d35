package container

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"gantry/engine/container/wire"
)

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"a","dir":"/d","cgroup":"/g","namespaces":131072,"filter":"k","messages":["m"],"oomScoreAdj":3,"rlimits":[{"type":"RLIMIT_NOFILE","hard":1,"soft":1}]}`))
	f.Add([]byte("null"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "state.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := new(Runtime).readState(path); err == nil && s.Version != stateVersion {
			t.Errorf("%q was read as %+v", data, s)
		}
	})
}

// FuzzLink lets a shim send any bytes: the engine goes on, and whoever waits for
// a reply hears of one or of the end.
func FuzzLink(f *testing.F) {
	f.Add(request(wire.KindReply, 1, func(e *wire.Encoder) { (&wire.Reply{Execs: []wire.ExecState{{ID: "x", Pid: 2}}}).Encode(e) }))
	f.Add(request(wire.KindExit, 0, func(e *wire.Encoder) { (&wire.Exit{Process: "x", Code: 3}).Encode(e) }))
	f.Add(request(wire.KindReply, 1, nil))
	f.Add(request(wire.KindHello, 1, nil))
	f.Add([]byte{255, 255, 255, 255, 64})
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		l := newLink(ours, func(wire.Exit) {})
		go l.serve()
		go func() {
			// The request is read first: its number is waited for.
			_, err := readFrame(theirs)
			if err == nil {
				_, _ = theirs.Write(data) // the engine may have hung up
			}
			theirs.Close()
		}()
		if _, err := l.call(context.Background(), wire.KindSignal, nil); err != nil && !errors.Is(err, errLost) {
			t.Errorf("call: %v", err)
		}
		<-l.lost
	})
}

func TestAReplyThatCannotBeReadIsAnAnswer(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	l := newLink(ours, func(wire.Exit) {})
	go l.serve()
	go func() {
		if _, err := readFrame(theirs); err == nil {
			_, _ = theirs.Write(request(wire.KindReply, 1, nil)) // without what belongs into one; it stays connected
		}
	}()
	if r, err := l.call(t.Context(), wire.KindSignal, nil); err != nil || r.Failure != wire.FailRequest {
		t.Errorf("got %+v, %v; want failure %d", r, err, wire.FailRequest)
	}
}
