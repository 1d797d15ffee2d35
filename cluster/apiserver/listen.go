package apiserver

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"gantry/internal/atomicfile"
)

const (
	headerTimeout   = 10 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 2 * time.Second
)

// listen opens the TLS addresses and writes the kubeconfig that names the first.
func (s *Server) listen(ctx context.Context) ([]net.Listener, error) {
	if s.cfg.Listen == "" {
		return nil, nil
	}
	var out []net.Listener
	lc := net.ListenConfig{Control: freeBind}
	for _, addr := range append([]string{s.cfg.Listen}, s.cfg.ExtraListen...) {
		if addr != s.cfg.Listen && contained(addr, s.cfg.Listen) {
			continue
		}
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("API server: %w", err), closeAll(out))
		}
		out = append(out, l)
	}
	addr := out[0].Addr().String()
	s.addr.Store(&addr)
	if err := s.writeKubeconfig(); err != nil {
		return nil, errors.Join(fmt.Errorf("write kubeconfig: %w", err), closeAll(out))
	}
	return out, nil
}

// contained reports whether whoever listens on all hears what comes to addr.
func contained(addr, all string) bool {
	host, port, err := net.SplitHostPort(all)
	_, wanted, wantedErr := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && wantedErr == nil && port == wanted && (host == "" || ip != nil && ip.IsUnspecified())
}

// freeBind lets an address be listened on before its interface is there: that
// of the pods' bridge comes with the first pod.
func freeBind(_, _ string, c syscall.RawConn) error {
	var err error
	if ctlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}); ctlErr != nil {
		return ctlErr
	}
	return err
}

func closeAll(listeners []net.Listener) error {
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// serve answers on all listeners until ctx ends, then gives requests a moment.
func (s *Server) serve(ctx context.Context, listeners []net.Listener) error {
	server := &http.Server{
		Handler: s.Handler(),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			NextProtos: []string{"h2", "http/1.1"},
			ClientAuth: tls.VerifyClientCertIfGiven,
			ClientCAs:  s.keys.Load().pool,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return &s.keys.Load().tls, nil
			},
		},
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		// What goes wrong before a request is the client's doing.
		ErrorLog:    log.New(discard{}, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	var g errgroup.Group
	for _, l := range listeners {
		g.Go(func() error {
			if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	<-ctx.Done()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(bounded); err != nil {
		err = server.Close()
		return errors.Join(err, g.Wait())
	}
	return g.Wait()
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// writeKubeconfig tells kubectl how to be the administrator.
func (s *Server) writeKubeconfig() error {
	if s.cfg.Kubeconfig == "" || s.Addr() == "" {
		return nil
	}
	k := s.keys.Load()
	b64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: gantry
  cluster:
    server: https://%s
    certificate-authority-data: %s
users:
- name: admin
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: gantry
  context:
    cluster: gantry
    user: admin
current-context: gantry
`, reachable(s.Addr()), b64(k.ca.certPEM), b64(k.admin.certPEM), b64(k.admin.keyPEM))
	return atomicfile.Write(s.cfg.Kubeconfig, []byte(text), 0o600)
}

// reachable replaces the unspecified address by loopback's.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
