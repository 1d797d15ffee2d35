package server

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
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

// FuzzReadToken finds no token that was not signed, and reads what was.
func FuzzReadToken(f *testing.F) {
	key, now := []byte("key"), time.Unix(1000, 0)
	f.Add("e30.AAAA", []byte("{}"))
	f.Add(signToken([]byte("another"), claims{Expires: 2000}), []byte("null"))
	f.Add(".", []byte("["))
	f.Fuzz(func(t *testing.T, token string, body []byte) {
		if c, ok := readToken(key, token, now); ok {
			t.Errorf("%q was taken for %+v", token, c)
		}
		text := base64.RawURLEncoding.EncodeToString(body)
		signed := text + "." + base64.RawURLEncoding.EncodeToString(tokenMAC(key, text))
		if c, ok := readToken(key, signed, now); ok && c.Expires <= now.Unix() {
			t.Errorf("%q is over and was taken for %+v", body, c)
		}
	})
}
