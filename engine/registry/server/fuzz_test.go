package server

import (
	"strings"
	"testing"
)

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:x"}],"subject":{"size":-1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		doc, err := parseDocument(b)
		if err != nil {
			return
		}
		for _, d := range doc.blobs() {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("%q passed", d.Digest)
			}
		}
	})
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"0-3", "bytes 5-9/10", "9-5", "-1-2", "0-9223372036854775807", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if first, last, ok := parseRange(s); ok && (first < 0 || last < first || last-first+1 <= 0) {
			t.Errorf("%q gave %d to %d", s, first, last)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("GET", "a/b/manifests/latest")
	f.Add("PATCH", "a/blobs/uploads/x")
	f.Add("POST", "blobs/uploads/blobs/uploads/")
	f.Fuzz(func(t *testing.T, method, path string) {
		found, repo, what, known := match(method, path)
		if found != nil && (!known || repo == "" || found.rest && (what == "" || strings.Contains(what, "/"))) {
			t.Errorf("%s %q gave %q and %q", method, path, repo, what)
		}
	})
}
