// Package apitest starts real API servers for tests.
package apitest

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"gantry/cluster/apiserver"
	"gantry/cluster/store"
)

// Server is a running API server over its own embedded etcd.
type Server struct {
	*apiserver.Server
	Config     *rest.Config         // in process, system:masters
	Client     kubernetes.Interface // over Config
	Kubeconfig string               // file for kubectl over TLS, as the administrator
	Dir        string               // holds etcd, tls and kubeconfig
	stop       func()
}

// Options change what Start starts. The zero value is what most tests want.
type Options struct {
	Dir    string // reuse this directory; empty makes a temporary one
	Nodes  apiserver.NodeConnector
	Logger *slog.Logger
}

// Start starts a server over a temporary directory, ready for requests, and
// stops it when the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartWith(t, Options{})
}

// StartWith is Start with options.
func StartWith(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	st, err := store.Open(ctx, store.Config{Dir: filepath.Join(o.Dir, "etcd"), Logger: o.Logger})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s := &Server{Dir: o.Dir, Kubeconfig: filepath.Join(o.Dir, "kubeconfig")}
	s.Server, err = apiserver.New(apiserver.Config{
		Store:         st,
		Listen:        "127.0.0.1:0",
		TLSDir:        filepath.Join(o.Dir, "tls"),
		Kubeconfig:    s.Kubeconfig,
		ServiceSubnet: netip.MustParsePrefix("10.43.0.0/16"),
		Nodes:         o.Nodes,
		Logger:        o.Logger,
	})
	if err != nil {
		cancel()
		t.Fatal(errors.Join(err, st.Close()))
	}
	done := make(chan error, 1) // Run's only result
	go func() { done <- s.Run(ctx) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-done, st.Close()); err != nil {
			t.Errorf("API server: %v", err)
		}
	}
	t.Cleanup(s.stop)
	select {
	case <-s.Ready():
	case err := <-done:
		done <- err
		t.Fatalf("API server: %v", err)
	}
	s.Config = s.Loopback()
	s.Client = kubernetes.NewForConfigOrDie(s.Config)
	return s
}

// Stop ends the server before the test does; its directory can be started again.
func (s *Server) Stop() { s.stop() }

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}
