package registry

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestChallenges(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want []challenge
	}{
		{nil, nil},
		{[]string{`Basic realm="a b"`}, []challenge{{"basic", map[string]string{"realm": "a b"}}}},
		{[]string{`Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"`},
			[]challenge{{"bearer", map[string]string{"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"}}}},
		{[]string{`Bearer realm = "r" , error=insufficient_scope, Basic realm=x`, "Negotiate"},
			[]challenge{{"bearer", map[string]string{"realm": "r", "error": "insufficient_scope"}}, {"basic", map[string]string{"realm": "x"}}, {"negotiate", map[string]string{}}}},
		{[]string{`Bearer Realm="q\"u\\o"`}, []challenge{{"bearer", map[string]string{"realm": `q"u\o`}}}},
		{[]string{`Bearer realm="open`}, []challenge{{"bearer", map[string]string{}}}},
		{[]string{`=x`, `"`}, nil},
	} {
		got := parseChallenges(c.in)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(challenge{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.in, diff)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/t",service="s",scope="repository:a:pull", Basic realm=x`)
	f.Add(`Basic`)
	f.Add(`Bearer realm="\`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges([]string{s}) {
			if c.scheme == "" || c.params == nil || c.scheme != strings.ToLower(c.scheme) {
				t.Errorf("%q gave %+v", s, c)
			}
		}
	})
}

func TestNextLink(t *testing.T) {
	base := must(url.Parse("https://a/v2/x/tags/list?n=1"))
	for in, want := range map[string]string{
		`</v2/x/tags/list?last=b&n=1>; rel="next"`: "https://a/v2/x/tags/list?last=b&n=1",
		`<?last=b>;rel=next`:                       "https://a/v2/x/tags/list?last=b",
		`<https://a/y>; rel="next"`:                "https://a/y",
		`</p>; rel="prev", </n>; rel="next"`:       "https://a/n",
		`<https://b/y>; rel="next"`:                "", // elsewhere
		`<http://a/y>; rel="next"`:                 "",
		`</y>; rel="prev"`:                         "",
		`/y`:                                       "",
		`>`:                                        "",
	} {
		got := ""
		if u := nextLink(base, []string{in}); u != nil {
			got = u.String()
		}
		if got != want {
			t.Errorf("%s gave %q, want %q", in, got, want)
		}
	}
}

func FuzzNextLink(f *testing.F) {
	f.Add(`</v2/x/tags/list?last=b>; rel="next"`)
	f.Add(`<a>,<b>;rel=next`)
	f.Fuzz(func(t *testing.T, s string) {
		base := must(url.Parse("https://a/v2/"))
		if u := nextLink(base, []string{s}); u != nil && (u.Host != "a" || u.Scheme != "https") {
			t.Errorf("%q leads to %s", s, u)
		}
	})
}

func TestRangeStart(t *testing.T) {
	for in, want := range map[string]int64{"bytes 5-9/10": 5, "bytes 0-0/*": 0, "bytes */10": -1, "5-9/10": -1, "bytes -5-9/1": -1, "bytes 5": -1, "": -1} {
		got, ok := rangeStart(in)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q gave %d, want %d", in, got, want)
		}
	}
}

func FuzzRangeStart(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := rangeStart(s); ok && n < 0 {
			t.Errorf("%q gave %d", s, n)
		}
	})
}

func TestManifestsThatAreRefused(t *testing.T) {
	const d = `"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"`
	for name, c := range map[string]struct{ kind, raw string }{
		"no JSON":                     {"", "{"},
		"schema 1":                    {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1}`},
		"no schema":                   {"application/vnd.oci.image.manifest.v1+json", `{"config":{` + d + `,"size":2}}`},
		"two types":                   {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`},
		"index with layers":           {"application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[],"layers":[{` + d + `}]}`},
		"manifest with parts":         {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{` + d + `},"manifests":[]}`},
		"no config":                   {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2}`},
		"a digest that leaves":        {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{"digest":"sha256:../../etc/passwd","size":2}}`},
		"a digest of an unknown kind": {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":2}}`},
		"a negative size":             {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{` + d + `,"size":-2}}`},
		"another document":            {"application/vnd.example", `{"schemaVersion":2}`},
	} {
		if _, _, err := parseManifest(c.kind, []byte(c.raw)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, kind, err := parseManifest("application/json", []byte(`{"schemaVersion":2,"config":{`+d+`,"size":2},"layers":[]}`)); err != nil || isIndex(kind) {
		t.Errorf("without a type: %q %v", kind, err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add("application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2,"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`))
	f.Add("application/vnd.docker.distribution.manifest.list.v2+json", []byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:x","platform":{"os":"linux"}}]}`))
	f.Fuzz(func(t *testing.T, kind string, raw []byte) {
		doc, got, err := parseManifest(kind, raw)
		if err != nil {
			return
		}
		for _, d := range append(doc.Layers, doc.Manifests...) {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("%q passed", d.Digest)
			}
		}
		if !isIndex(got) && doc.Config == nil {
			t.Error("a manifest without config passed")
		}
		_, _ = choose(doc.Manifests, amd64)
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{"3": 3 * time.Second, "0": 0, "Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0, "-1": -1, "": -1, "soon": -1} {
		got, ok := retryAfter(in, now)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q gave %v, want %v", in, got, want)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add(`{"token":"a","expires_in":300}`)
	f.Add(`{"access_token":"a"}`)
	f.Fuzz(func(t *testing.T, s string) {
		b, err := readToken(strings.NewReader(s), time.Time{})
		if err == nil && (b.token == "" || strings.ContainsAny(b.token, "\r\n \x00")) {
			t.Errorf("%q gave %q", s, b.token)
		}
	})
}
