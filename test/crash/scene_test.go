package crash

import (
	"archive/tar"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scene is what a client asks for, during which the server may die: an error is
// then what the client sees of it. Done by a server that lives, it leaves
// nothing but what scrap names.
type scene struct {
	before func(*server) error // makes what the scene needs
	do     func(*server) error
	often  bool // the point is passed several times
}

// scrap is what scenes leave, or may leave when the server dies.
var scrap = []string{"scene", "spare:latest", otherRegistry + "/spare:latest", ownRegistry + "/busybox:latest"}

const (
	ownRegistry   = "127.0.0.1:5000"
	otherRegistry = "127.0.0.1:5001"
)

// docker runs the stock client, once for each line, until one fails.
func (s *server) docker(lines ...string) error {
	for _, line := range lines {
		if r := s.Try("", "docker", strings.Fields(line)...); r.Code != 0 {
			return fmt.Errorf("docker %s: exit status %d: %s", line, r.Code, r.Stderr)
		}
	}
	return nil
}

// life is a container's, with all that it may have.
func life(s *server) error {
	return s.docker("run -d --name scene -p 80 -v scene:/etc -v /anonymous busybox true", "wait scene", "rm -v scene", "volume rm scene")
}

func network(s *server) error { return s.docker("network create scene", "network rm scene") }

func wholeLife(s *server) error { return errors.Join(life(s), network(s)) }

func build(s *server) error {
	dir := filepath.Join(s.dir, "build")
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM busybox\nRUN --mount=type=cache,target=/c echo x > /f\nCOPY Dockerfile /\n"), 0o600)
	}
	if err != nil {
		return err
	}
	return s.docker("build -q -t scene " + dir)
}

// spare imports an image of which no other has the layer.
func spare(s *server) error {
	path := filepath.Join(s.dir, "spare.tar")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	const text = "spare\n"
	err = w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err = errors.Join(err, w.Close(), f.Close()); err != nil {
		return err
	}
	return s.docker("import " + path + " spare")
}

func removeSpare(s *server) error { return s.docker("rmi spare") }

func push(s *server) error {
	name := ownRegistry + "/busybox"
	return s.docker("tag busybox "+name, "push -q "+name, "rmi "+name)
}

// stored puts an image into the registry of another server, and nowhere else.
func stored(s *server) error {
	name := otherRegistry + "/spare"
	return errors.Join(spare(s), s.docker("tag spare "+name, "push -q "+name, "rmi spare "+name))
}

func pull(s *server) error { return s.docker("pull -q " + otherRegistry + "/spare") }

// rotate makes a log of several files, which the server then compresses.
func rotate(s *server) error {
	const last = 3000
	err := s.docker(fmt.Sprint("run --name scene --log-opt max-size=40k --log-opt max-file=100 busybox seq ", last))
	if err != nil {
		return err
	}
	got := strings.Fields(s.Try("", "docker", "logs", "scene").Stdout)
	for i, line := range got {
		if line != strconv.Itoa(i+1) {
			return fmt.Errorf("line %d of the log is %q", i+1, line)
		}
	}
	if len(got) != last {
		return fmt.Errorf("the log has %d lines", len(got))
	}
	return nil
}

// forward sends a container's log to a service on the host, for as long as the
// server lives.
func forward(s *server) error {
	path := filepath.Join(s.dir, "syslog")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(2 * pointLimit))
	ended, done := s.ended, make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ended:
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		case <-done:
		}
	}()
	if err := s.docker("run --name scene --log-driver syslog --log-opt syslog-address=unixgram://" + path + " busybox seq 3"); err != nil {
		return err
	}
	buf := make([]byte, 1000)
	for i := range 3 {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("]: %d\n", i+1); !strings.HasSuffix(string(buf[:n]), want) {
			return fmt.Errorf("sent was %q, want an end of %q", buf[:n], want)
		}
	}
	return nil
}

// anonymize makes the server forget who it is.
func anonymize(s *server) error { return os.RemoveAll(filepath.Join(s.Config.DataDir, "engine-id")) }

func info(s *server) error { return s.docker("info") }

// sweep removes what a scene has left, or fails.
func (s *server) sweep() {
	s.t.Helper()
	s.clear()
	images := strings.Fields(s.Docker("images", "--format", "{{.Repository}}:{{.Tag}}"))
	for _, name := range scrap {
		if slices.Contains(images, name) || slices.Contains(images, name+":latest") {
			s.Docker("rmi", name)
		}
	}
	s.Docker("builder", "prune", "-af")
	if dangling := s.Docker("images", "-q", "--filter", "dangling=true"); dangling != "" {
		s.t.Errorf("images are left: %s", dangling)
	}
}
