package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gantry/internal/control"
	"gantry/internal/problem"
	"gantry/push/kube"
)

func TestScaleArguments(t *testing.T) {
	got, err := parseScale([]string{"hello=4", "web=0"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]wish{{"hello", 4}, {"web", 0}}, got, cmp.AllowUnexported(wish{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"hello", "hello=", "=3", "hello=-1", "hello=many", "hello=99999999999"} {
		if _, err := parseScale([]string{bad}); !errors.Is(err, problem.Invalid) || problem.Try(err) == "" {
			t.Errorf("%q: %v, want Invalid with advice", bad, err)
		}
	}
}

func ingress(namespace, host, service string) kube.Ingress {
	backend := kube.IngressBackend{Service: &kube.IngressService{Name: service}}
	return kube.Ingress{
		Metadata: kube.Meta{Namespace: namespace},
		Spec:     kube.IngressSpec{Rules: []kube.IngressRule{{Host: host, HTTP: &kube.IngressHTTP{Paths: []kube.IngressPath{{Path: "/", Backend: backend}}}}}},
	}
}

func TestAnAppsAddressesAreThoseOfItsService(t *testing.T) {
	all := []kube.Ingress{ingress("default", "hello.localhost", "hello"), ingress("default", "", "hello"), ingress("other", "x.localhost", "hello"), ingress("default", "web.localhost", "web")}
	for _, c := range []struct{ rule, app, listen, want string }{
		{"port 80 is not written", "hello", ":80", "http://hello.localhost/ http://localhost/"},
		{"another port is", "web", "[::]:8080", "http://web.localhost:8080/"},
		{"no ingress leads there", "api", ":80", "-"},
	} {
		if got := appAddresses(kube.Meta{Name: c.app, Namespace: "default"}, all, c.listen); got != c.want {
			t.Errorf("%s: %q, want %q", c.rule, got, c.want)
		}
	}
}

func TestLogLinesAreMergedByTime(t *testing.T) {
	var all []line
	for replica, text := range map[string]string{
		"a": "2026-01-01T00:00:00.5Z second\n2026-01-01T00:00:02Z fourth",
		"b": "2026-01-01T00:00:00.10Z first\n2026-01-01T00:00:01.000000001Z third with  spaces\n",
	} {
		var err error
		if all, err = read(all, strings.NewReader(text), replica); err != nil {
			t.Fatal(err)
		}
	}
	order := make(map[string]string)
	for _, x := range all {
		order[x.text] = x.at
	}
	want := []string{"first", "second", "third with  spaces", "fourth"}
	for i := 1; i < len(want); i++ {
		if order[want[i-1]] >= order[want[i]] {
			t.Errorf("%q at %s is not before %q at %s", want[i-1], order[want[i-1]], want[i], order[want[i]])
		}
	}
}

func TestAgeHasOneUnit(t *testing.T) {
	for d, want := range map[time.Duration]string{90 * time.Second: "90s", 5 * time.Minute: "5m", 3 * time.Hour: "3h", 100 * time.Hour: "4d"} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestALiveLineDoesNotWrap(t *testing.T) {
	if got := shorten("⠋ build  Step 1/4", 10); len([]rune(got)) != 9 {
		t.Errorf("%q has %d columns", got, len([]rune(got)))
	}
}

func TestFollowEndsWithTheLastStatus(t *testing.T) {
	reports := `{"phase":"starting","steps":[{"name":"preflight"}]}
{"phase":"starting","steps":[{"name":"preflight","took":5},{"name":"engine","took":0}]}
{"phase":"failed","steps":[{"name":"preflight","took":5},{"name":"engine","took":9,"error":"no"}],"error":"engine: no","try":"this"}
`
	last, err := follow(strings.NewReader(reports))
	if err != nil || last.Phase != control.Failed || last.Try != "this" {
		t.Errorf("last = %+v, %v", last, err)
	}
}
