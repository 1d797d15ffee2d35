package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"gantry/cluster/apiserver/apitest"
)

// fakeKubelet records what reaches it, and takes over connections that ask.
type fakeKubelet struct{ paths []string }

func (k *fakeKubelet) Handler(_ context.Context, node string) (http.Handler, error) {
	if node != "n1" {
		return nil, fmt.Errorf("node %s is away", node)
	}
	return k, nil
}

func (k *fakeKubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.paths = append(k.paths, r.Method+" "+r.URL.RequestURI())
	if r.Header.Get("Upgrade") == "" {
		fmt.Fprintln(w, "one line")
		return
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
	rw.Flush()
	line, err := rw.ReadString('\n')
	if err == nil {
		fmt.Fprintf(rw, "echo %s", line)
		rw.Flush()
	}
}

func TestStreamsReachTheKubelet(t *testing.T) {
	kubelet := &fakeKubelet{}
	s := apitest.StartWith(t, apitest.Options{Nodes: kubelet})
	create(t, s, pod("p"))
	if err := bind(t, s, "p", "n1"); err != nil {
		t.Fatal(err)
	}
	text, err := s.Client.CoreV1().Pods("default").GetLogs("p", &corev1.PodLogOptions{Follow: true, TailLines: new(int64)}).DoRaw(t.Context())
	if err != nil || string(text) != "one line\n" {
		t.Errorf("log: %q, %v", text, err)
	}

	// The handler as TLS has it, but for the certificates.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeAdmin(w, r)
	}))
	defer server.Close()
	reply := upgrade(t, server.Listener.Addr().String(),
		"POST /api/v1/namespaces/default/pods/p/exec?command=sh&command=-c&stdin=true&stdout=true&tty=false HTTP/1.1", "hello")
	if !strings.Contains(reply, "101 Switching Protocols") || !strings.HasSuffix(reply, "echo hello\n") {
		t.Errorf("exec: %q", reply)
	}
	upgrade(t, server.Listener.Addr().String(), "GET /api/v1/namespaces/default/pods/p/portforward?ports=80 HTTP/1.1", "x")
	want := []string{
		"GET /containerLogs/default/p/main?follow=true&tailLines=0",
		"POST /exec/default/p/main?command=sh&command=-c&input=1&output=1",
		"GET /portForward/default/p?ports=80",
	}
	if strings.Join(kubelet.paths, "\n") != strings.Join(want, "\n") {
		t.Errorf("kubelet saw\n%s\nwant\n%s", strings.Join(kubelet.paths, "\n"), strings.Join(want, "\n"))
	}
}

// upgrade sends one line over an upgraded connection and returns all it reads.
func upgrade(t *testing.T, addr, request, line string) string {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n%s\n", request, line)
	var out bytes.Buffer
	if _, err := io.Copy(&out, conn); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestPodsOnUnreachableNodesSayWhy(t *testing.T) {
	s := apitest.StartWith(t, apitest.Options{Nodes: &fakeKubelet{}})
	p := pod("p")
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "side", Image: "side:1"})
	create(t, s, p)
	if err := bind(t, s, "p", "n2"); err != nil {
		t.Fatal(err)
	}
	logs := func(container string) error {
		body, err := s.Client.CoreV1().Pods("default").GetLogs("p", &corev1.PodLogOptions{Container: container}).Stream(t.Context())
		if err != nil {
			return err
		}
		return body.Close()
	}
	for container, want := range map[string]string{
		"":     "a container name must be specified for pod p, choose one of: [main side]",
		"nope": "container nope is not valid for pod p",
		"main": "kubelet of node n2: node n2 is away",
	} {
		if err := logs(container); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("logs of container %q: %v, want %q", container, err, want)
		}
	}
}
