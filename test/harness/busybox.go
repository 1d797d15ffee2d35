package harness

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/testenv"
)

// ImportBusybox makes the image "busybox" of Debian's static busybox, with every
// applet.
func (s *Server) ImportBusybox() {
	s.t.Helper()
	busybox := testenv.NeedCommand(s.t, "busybox")
	program, err := os.ReadFile(busybox)
	if err != nil {
		s.t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		err := w.WriteHeader(&h)
		if err == nil {
			_, err = w.Write([]byte(content))
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "etc/", "tmp/", "root/", "var/"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, "")
	}
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, string(program))
	for applet := range strings.FieldsSeq(s.Run(busybox, "--list")) {
		if applet != "busybox" {
			add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, "")
		}
	}
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n")
	path := filepath.Join(s.t.TempDir(), "busybox.tar")
	if err := errors.Join(w.Close(), os.WriteFile(path, buf.Bytes(), 0o600)); err != nil {
		s.t.Fatal(err)
	}
	s.Docker("import", path, "busybox:latest")
}
