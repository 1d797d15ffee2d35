package dockerapi_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestModesOfRun(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "other", "busybox", "sleep", "60")
	for name, c := range map[string]struct {
		args string
		want string
	}{
		"privileged":        {"--privileged busybox sh -c|mkdir /m && mount -t tmpfs none /m && echo mounted && test -e /dev/null && echo devices", "mounted\ndevices"},
		"host pids":         {"--pid host busybox sh -c|test -d /proc/2 && echo many", "many"},
		"another's pids":    {"--pid container:other busybox sh -c|tr '\\0' ' ' < /proc/1/cmdline", "sleep 60"},
		"host ipc and uts":  {"--ipc host --uts host busybox sh -c|test -d /dev/shm && echo shm", "shm"},
		"a device":          {"--device /dev/null:/dev/my busybox sh -c|test -c /dev/my && echo x > /dev/my && echo written", "written"},
		"host network":      {"--network host busybox sh -c|test -e /sys/class/net/eth0 || echo none", "none"},
		"a read-only mount": {"-v /etc:/host:ro busybox sh -c|touch /host/x 2>/dev/null || echo refused", "refused"},
		"name service":      {"--dns 192.0.2.1 --dns-search example.org --add-host a:192.0.2.9 busybox sh -c|grep -c 192.0.2.1 /etc/resolv.conf; grep -c 192.0.2.9 /etc/hosts", "1\n1"},
		"a file from stdin": {"--mount type=tmpfs,target=/t,tmpfs-size=1m busybox sh -c|df -k /t | awk 'NR==2{print $2}'", "1024"},
		"stop signal":       {"--stop-signal INT --stop-timeout 3 busybox sh -c|echo fine", "fine"},
		"group":             {"--group-add 4711 busybox id|-G", "0 10 4711"},
		"volumes from":      {"--volumes-from other busybox sh -c|echo ok", "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			words, script, _ := strings.Cut(c.args, "|")
			args := append(append([]string{"run", "--rm"}, strings.Fields(words)...), script)
			if out := d.do(args...); strings.TrimSpace(out) != c.want {
				t.Errorf("%q, want %q", out, c.want)
			}
		})
	}
}

func TestEventsAreReplayed(t *testing.T) {
	d := newDaemon(t)
	since := time.Now().Add(-time.Minute).Format(time.RFC3339)
	d.do("run", "--rm", "--name", "short", "--network", "none", "busybox", "true")
	until := time.Now().Add(time.Second).Format(time.RFC3339Nano)
	out := d.do("events", "--since", since, "--until", until, "--filter", "container=short", "--format", "{{.Action}}")
	if out != "create\nattach\nstart\ndie\ndestroy" {
		t.Errorf("events: %q", out)
	}
	out = d.do("events", "--since", "0", "--until", until, "--filter", "container=short", "--format", "{{.Action}}")
	if !strings.HasPrefix(out, "create\n") {
		t.Errorf("events since the beginning: %q", out)
	}
	if out := d.do("events", "--until", "0"); out != "" {
		t.Errorf("events until the epoch: %q", out)
	}
	if got := d.try("events", "--until", "1s", "--filter", "strange=x"); got.code == 0 || !strings.Contains(got.err, "invalid filter 'strange'") {
		t.Errorf("an unknown filter: %+v", got)
	}
}

// request makes a request of the API itself and returns status, header and body.
func (d *daemon) request(method, path, body string) (int, http.Header, string) {
	d.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	}
	req, err := http.NewRequest(method, "http://docker"+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	answer, err := transport.RoundTrip(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, string(data)
}

func TestStatusCodes(t *testing.T) {
	d := newDaemon(t)
	id := d.do("create", "--name", "web", "busybox", "sleep", "60")
	for _, c := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"GET", "/_ping", "", 200, "OK"},
		{"HEAD", "/_ping", "", 200, ""},
		{"GET", "/v1.24/version", "", 200, `"ApiVersion":"1.56"`},
		{"GET", "/v1.99/version", "", 400, "client version 1.99 is too new"},
		{"GET", "/nowhere", "", 404, "page not found"},
		{"PATCH", "/version", "", 404, "page not found"},
		{"POST", "/containers/web/stop", "", 304, ""},
		{"POST", "/containers/web/start", "", 204, ""},
		{"POST", "/containers/web/start", "", 304, ""},
		{"POST", "/containers/" + id[:12] + "/pause", "", 204, ""},
		{"POST", "/containers/web/pause", "", 409, "is already paused"},
		{"POST", "/containers/web/unpause", "", 204, ""},
		{"DELETE", "/containers/web", "", 409, "container is running"},
		{"POST", "/containers/nobody/start", "", 404, "No such container: nobody"},
		{"POST", "/containers/create?name=web", `{"Image":"busybox"}`, 409, "is already in use by container"},
		{"POST", "/containers/create", `{"Image":"missing"}`, 404, "No such image: missing"},
		{"POST", "/containers/create?name=magic&Image=busybox", `{"Image":"busybox","Magic":1}`, 201, `The field \"Magic\" is unknown and was ignored.`},
		{"POST", "/containers/create", `{`, 400, "invalid JSON"},
		{"POST", "/containers/create?name=a/b", `{"Image":"busybox"}`, 400, "Invalid container name"},
		{"GET", "/containers/json?filters={\"x\":{\"y\":true}}", "", 400, "invalid filter 'x'"},
		{"GET", "/containers/json?trunc_cmd=0", "", 200, `"Names":["/web"]`},
		{"GET", "/containers/web/logs", "", 400, "you must choose at least one stream"},
		{"POST", "/containers/web/kill?signal=NOPE", "", 400, "invalid signal: NOPE"},
		{"GET", "/containers/web/archive?path=/none", "", 404, "Could not find the file /none in container web"},
		{"GET", "/swarm", "", 503, "This node is not a swarm manager"},
		{"GET", "/nodes", "", 503, "This node is not a swarm manager"},
		{"POST", "/images/create?fromImage=127.0.0.1:1/box&tag=2", "", 500, "connection refused"},
		{"GET", "/images/missing/json", "", 404, "No such image"},
		{"GET", "/exec/nothing/json", "", 404, "No such exec instance: nothing"},
		{"GET", "/volumes/nothing", "", 404, "no such volume"},
		{"GET", "/networks/nothing", "", 404, "network nothing not found"},
		{"GET", "/networks/pods", "", 404, "network pods not found"},
		{"POST", "/containers/web/kill", "", 204, ""},
		{"POST", "/containers/web/kill", "", 409, "is not running"},
		{"POST", "/containers/web/exec", `{"Cmd":["true"]}`, 409, "is not running"},
		{"DELETE", "/containers/web", "", 204, ""},
	} {
		status, header, body := d.request(c.method, strings.ReplaceAll(c.path, `"`, "%22"), c.body)
		if status != c.status || !strings.Contains(body, c.text) {
			t.Errorf("%s %s: %d %s, want %d %q", c.method, c.path, status, body, c.status, c.text)
		}
		routed := !strings.Contains(body, "page not found") // what is no route has no headers, as in the reference
		if routed && header.Get("Api-Version") != "1.56" || routed && header.Get("Ostype") != "linux" {
			t.Errorf("%s %s: header %v", c.method, c.path, header)
		}
		if status >= 400 && c.method != "HEAD" {
			var message struct{ Message string }
			if err := json.Unmarshal([]byte(body), &message); err != nil || message.Message == "" {
				t.Errorf("%s %s: the error is %q", c.method, c.path, body)
			}
		}
	}
	_, header, _ := d.request("GET", "/_ping", "")
	if header.Get("Builder-Version") != "1" || header.Get("Docker-Experimental") != "false" {
		t.Errorf("ping's header: %v", header)
	}
}
