package store

import (
	"net/url"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcd starts a whole etcd with a listener on loopback.
func etcd(t *testing.T) string {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = t.TempDir(), "error", []string{"/dev/null"}
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenClientUrls, cfg.ListenPeerUrls = []url.URL{any}, []url.URL{any}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return "http://" + e.Clients[0].Addr().String()
}

func TestForeignEtcdServesTheSame(t *testing.T) {
	s, err := Open(t.Context(), Config{Endpoints: []string{etcd(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	rev, err := s.Create(t.Context(), "/registry/x/a", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	watch := s.Watch(t.Context(), Prefix, rev)
	if b := <-watch; len(b.Changes) != 1 || b.Revision != rev {
		t.Fatalf("watch delivers %+v", b)
	}
	if _, err := s.client.Put(t.Context(), "/elsewhere", "x"); err != nil {
		t.Fatal(err)
	}
	want, err := s.Revision(t.Context())
	if err != nil || want != rev+1 {
		t.Fatalf("revision %d, %v; want %d", want, err, rev+1)
	}
	if err := s.RequestProgress(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case b := <-watch:
		if b.Revision < want || len(b.Changes) != 0 {
			t.Errorf("progress: %+v, want revision %d", b, want)
		}
	case <-time.After(5 * time.Second):
		t.Error("no progress")
	}
}

func TestExactlyOnePlace(t *testing.T) {
	for _, cfg := range []Config{{}, {Dir: "x", Endpoints: []string{"y"}}} {
		if _, err := Open(t.Context(), cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
