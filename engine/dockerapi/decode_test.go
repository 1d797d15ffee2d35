package dockerapi

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
	"gantry/internal/problem"
)

func TestMatch(t *testing.T) {
	for request, want := range map[string]struct {
		pattern string
		vars    []string
	}{
		"GET /containers/json":                         {"/containers/json", nil},
		"GET /containers/web/json":                     {"/containers/{}/json", []string{"web"}},
		"HEAD /_ping":                                  {"/_ping", nil},
		"GET /images/json":                             {"/images/json", nil},
		"GET /images/registry:5000/a/b:1/json":         {"/images/{+}/json", []string{"registry:5000/a/b:1"}},
		"GET /images/json/json":                        {"/images/{+}/json", []string{"json"}},
		"POST /images/load":                            {"/images/load", nil},
		"DELETE /images/a/b":                           {"/images/{+}", []string{"a/b"}},
		"POST /containers/prune":                       {"/containers/prune", nil},
		"GET /swarm":                                   {"/swarm", nil},
		"POST /swarm/join":                             {"/swarm/{+}", []string{"join"}},
		"GET /containers/web/archive":                  {"/containers/{}/archive", []string{"web"}},
		"PATCH /containers/json":                       {},
		"GET /nothing/here":                            {},
		"GET /containers/web/checkpoints/x/restore":    {},
		"POST /networks/create":                        {"/networks/create", nil},
		"POST /containers/a/exec":                      {"/containers/{}/exec", []string{"a"}},
		"GET /distribution/docker.io/library/x:1/json": {"/distribution/{+}/json", []string{"docker.io/library/x:1"}},
	} {
		method, path, _ := strings.Cut(request, " ")
		rt, vars := match(method, path)
		got := ""
		if rt != nil {
			got = rt.pattern
		}
		if got != want.pattern || rt != nil && !cmp.Equal(vars, want.vars) {
			t.Errorf("%s: %q %q, want %q %q", request, got, vars, want.pattern, want.vars)
		}
	}
}

func TestSplitVersion(t *testing.T) {
	for path, want := range map[string]string{
		"/v1.24/info":  "1.24 /info",
		"/v1.56/info":  "1.56 /info",
		"/info":        maxVersion + " /info",
		"/v1.57/info":  "error",
		"/v1.23/info":  "error",
		"/v2.0/info":   "error",
		"/v1.x/info":   maxVersion + " /v1.x/info",
		"/v1.44/a/b/c": "1.44 /a/b/c",
	} {
		v, rest, err := splitVersion(path)
		got := v.String() + " " + rest
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestStatuses(t *testing.T) {
	for err, want := range map[error]int{
		problem.New(problem.NotFound, "x"):             404,
		problem.New(problem.Conflict, "x"):             409,
		problem.New(problem.Exists, "x"):               409,
		problem.New(problem.Invalid, "x"):              400,
		problem.New(problem.Denied, "x"):               403,
		problem.New(problem.Unsupported, "x"):          501,
		problem.New(problem.Unavailable, "x"):          503,
		engine.ErrNotModified:                          304,
		errors.New("x"):                                500,
		statusError{http.StatusMethodNotAllowed, "no"}: 405,
	} {
		if got := statusOf(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

func TestUnknownFieldsAreNamed(t *testing.T) {
	for body, want := range map[string]string{
		`{"Image":"x","HostConfig":{"Memory":1}}`:                                                        "",
		`{"image":"x","hostconfig":{"memory":1}}`:                                                        "", // names in any case, as encoding/json has it
		`{"Image":"x","HostConfig":{"KernelMemory":0,"Gone":null,"Old":{"a":[]}}}`:                       "",
		`{"Image":"x","HostConfig":{"KernelMemory":5}}`:                                                  "HostConfig.KernelMemory",
		`{"Image":"x","Magic":true}`:                                                                     "Magic",
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"bind","Shine":"y"}]}}`:                            "HostConfig.Mounts.Shine",
		`{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"Speed":1}}}}`:                    "NetworkingConfig.EndpointsConfig.bridge.Speed",
		`{"Image":"x","HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}}}`:       "",
		`{"Image":"x","MacAddress":"02:42:ac:11:00:02","ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"}}`: "",
	} {
		var req createRequest
		unknown, err := decodeJSON([]byte(body), &req)
		if got := strings.Join(unknown, " "); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q named", body, got, err, want)
		}
	}
	for _, body := range []string{`{`, `[]`, `{"Image":5}`, `{} {}`, `{"HostConfig":{"Dns":["x"]}}`} {
		var req createRequest
		if _, err := decodeJSON([]byte(body), &req); !errors.Is(err, problem.Invalid) {
			t.Errorf("%s: %v, want Invalid", body, err)
		}
	}
}

func TestFilters(t *testing.T) {
	for text, want := range map[string]engine.Filters{
		"":                                {},
		`{"label":{"a=b":true,"c":true}}`: {"label": {"a=b", "c"}},
		`{"label":["a=b"]}`:               {"label": {"a=b"}},
		`{"status":{"x":false}}`:          {"status": {}},
	} {
		got, err := parseFilters(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
	if _, err := parseFilters(`{"a":1}`); !errors.Is(err, problem.Invalid) {
		t.Errorf("a number: %v", err)
	}
}

func TestUnknownQueryParametersAreNamed(t *testing.T) {
	q, err := parseQuery(&http.Request{URL: &url.URL{RawQuery: "all=1&new=&shiny=1"}})
	if err != nil || !q.bool("all") {
		t.Errorf("the known one: %v", err)
	}
	if got := q.unknown("all"); !cmp.Equal(got, []string{"shiny"}) {
		t.Errorf("unknown are %q, want shiny", got)
	}
	if got := q.unknown("*"); got != nil {
		t.Errorf("where all is known: %q", got)
	}
}

func TestDetachKeys(t *testing.T) {
	for text, want := range map[string][]byte{
		"": {16, 17}, "ctrl-p,ctrl-q": {16, 17}, "a": {'a'}, "ctrl-@,ctrl-_,x": {0, 31, 'x'}, "CTRL-A": {1},
	} {
		if got, err := parseDetachKeys(text); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-1", "alt-x", ",", "ab"} {
		if _, err := parseDetachKeys(text); !errors.Is(err, problem.Invalid) {
			t.Errorf("%q: %v, want Invalid", text, err)
		}
	}
}

func TestLegacyMacAddress(t *testing.T) {
	var req createRequest
	if _, err := decodeJSON([]byte(`{"Image":"x","MacAddress":"02:42:ac:11:00:02"}`), &req); err != nil {
		t.Fatal(err)
	}
	out, err := engineRequest(req)
	if err != nil || out.Networking.EndpointsConfig["bridge"].MacAddress.String() != "02:42:ac:11:00:02" {
		t.Errorf("%+v, %v", out.Networking, err)
	}
	req.HostConfig = &dcontainer.HostConfig{NetworkMode: "host"}
	if _, err := engineRequest(req); !errors.Is(err, problem.Invalid) {
		t.Errorf("on the host's network: %v", err)
	}
}

func TestBuildRequest(t *testing.T) {
	values := url.Values{
		"t": {"app", "app:latest", "other:2"}, "buildargs": {`{"A":"1","B":null}`}, "labels": {`{"x":"y"}`}, "memory": {"1024"},
		"ulimits": {`[{"Name":"nofile","Soft":1,"Hard":2}]`}, "squash": {"0"}, "version": {"1"}, "networkmode": {"none"},
	}
	req, err := buildRequest(query{values})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"app:latest", "other:2"}, req.Tags); diff != "" {
		t.Error(diff)
	}
	if *req.BuildArgs["A"] != "1" || req.BuildArgs["B"] != nil || req.Labels["x"] != "y" || req.Limits.Memory != 1024 || len(req.Limits.Ulimits) != 1 || req.Network != "none" {
		t.Errorf("%+v", req)
	}
	for name, value := range map[string]string{"squash": "1", "version": "2", "memory": "much", "buildargs": "{"} {
		if _, err := buildRequest(query{url.Values{name: {value}}}); err == nil {
			t.Errorf("%s=%s is accepted", name, value)
		}
	}
}

func FuzzDecodeCreate(f *testing.F) {
	for _, seed := range []string{
		`{"Image":"busybox","Cmd":["true"],"HostConfig":{"Binds":["/a:/b"],"PortBindings":{"80/tcp":[{"HostPort":"1"}]}}}`,
		`{"Image":"x","HostConfig":{"Dns":["1.1.1.1"],"Ulimits":[{"Name":"nofile","Hard":1,"Soft":1}]},"NetworkingConfig":{"EndpointsConfig":{"n":{"IPAMConfig":{"IPv4Address":"10.0.0.1"}}}}}`,
		`{"HostConfig":null}`, `[]`, `{"x":[[[]]]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var req createRequest
		_, err := decodeJSON(body, &req)
		if err == nil {
			_, err = engineRequest(req)
		}
		if err != nil && !errors.Is(err, problem.Invalid) && !errors.Is(err, problem.Unsupported) {
			t.Errorf("%q: %v", body, err)
		}
	})
}

func FuzzFilters(f *testing.F) {
	for _, seed := range []string{`{"a":{"b":true}}`, `{"a":["b"]}`, `null`, `{"a":null}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseFilters(text); err != nil && !errors.Is(err, problem.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func FuzzRequestPath(f *testing.F) {
	for _, seed := range []string{"/v1.50/containers/x/json", "//", "/images///json", "/v1.44"} {
		f.Add("GET", seed)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		_, rest, err := splitVersion(path)
		if err == nil {
			match(method, rest)
		}
	})
}
