package dockerapi_test

import (
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// lookup asks the container's name server for a name, or by an address for the
// name, and returns what it answers.
func (d *daemon) lookup(container, name string) string {
	d.t.Helper()
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	if reverse, err := dns.ReverseAddr(name); err == nil {
		question.SetQuestion(reverse, dns.TypePTR)
	}
	key := d.do("inspect", "-f", "{{.NetworkSettings.SandboxKey}}", container)
	done := make(chan error, 1)
	var answer *dns.Msg
	go func() {
		runtime.LockOSThread() // the thread dies in the container's namespace
		f, err := os.Open(key)
		if err == nil {
			defer f.Close()
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			answer, err = dns.Exchange(question, "127.0.0.11:53")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		d.t.Fatalf("%s asks for %s: %v", container, name, err)
	}
	var found []string
	for _, rr := range answer.Answer {
		found = append(found, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

func TestNamesOnUserDefinedNetworks(t *testing.T) {
	d := newDaemon(t)
	d.do("network", "create", "--subnet", "10.98.0.0/24", "front")
	d.do("network", "create", "--subnet", "10.98.1.0/24", "back")
	run := func(name string, args ...string) {
		t.Helper() // the name server that is given refuses
		d.do(append(append([]string{"run", "-d", "--dns", "127.0.0.1", "--name", name}, args...), "busybox", "sleep", "1000")...)
	}
	run("asker", "--network", "front", "--link", "web:linked")
	run("web", "--network", "front", "--network-alias", "site", "--ip", "10.98.0.10", "--hostname", "webhost")
	run("web2", "--network", "front", "--network-alias", "pair", "--ip", "10.98.0.11")
	run("hidden", "--network", "back", "--ip", "10.98.1.10")
	run("legacy")
	for name, want := range map[string]string{
		"web": "10.98.0.10", "site": "10.98.0.10", "webhost": "10.98.0.10", "web.front": "10.98.0.10", "linked": "10.98.0.10",
		"pair": "10.98.0.11", "10.98.0.10": "web.front.", "hidden": "", "nobody": "",
		d.do("inspect", "-f", "{{.Id}}", "web")[:12]: "10.98.0.10",
	} {
		if got := d.lookup("asker", name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := d.do("exec", "asker", "cat", "/etc/resolv.conf"); !strings.HasPrefix(got, "nameserver 127.0.0.11\n") || !strings.Contains(got, "ndots:0") {
		t.Errorf("resolv.conf: %q", got)
	}
	if got := d.do("exec", "legacy", "cat", "/etc/resolv.conf"); strings.Contains(got, "127.0.0.11") {
		t.Errorf("resolv.conf on the default bridge: %q", got)
	}

	d.do("rename", "web", "shop")
	if got := d.lookup("asker", "web") + "," + d.lookup("asker", "shop"); got != ",10.98.0.10" {
		t.Errorf("old name and new: %q", got)
	}
	d.do("network", "connect", "--ip", "10.98.1.7", "--alias", "visitor", "back", "shop")
	if got := d.lookup("hidden", "visitor") + "," + d.lookup("shop", "hidden"); got != "10.98.1.7,10.98.1.10" {
		t.Errorf("after connect: %q", got)
	}
	if got := d.do("exec", "shop", "cat", "/etc/hosts"); !strings.Contains(got, "10.98.1.7\twebhost") {
		t.Errorf("hosts after connect: %s", got)
	}
	d.do("network", "disconnect", "back", "shop")
	if got := d.lookup("hidden", "visitor") + "," + d.lookup("shop", "hidden"); got != "," {
		t.Errorf("after disconnect: %q", got)
	}
	if got := d.do("exec", "shop", "cat", "/etc/hosts"); strings.Contains(got, "10.98.1.7") {
		t.Errorf("hosts after disconnect: %s", got)
	}
	d.do("network", "connect", "front", "legacy")
	if got := d.lookup("legacy", "shop"); got != "10.98.0.10" {
		t.Errorf("from the default bridge, connected later: %q", got)
	}
	d.Restart(t)
	d.server.Close()
	d.serve()
	if got := d.lookup("asker", "shop"); got != "10.98.0.10" {
		t.Errorf("after the daemon's restart: %q", got)
	}
	d.do("stop", "-t", "0", "shop")
	if got := d.lookup("asker", "shop"); got != "" {
		t.Errorf("a stopped container is at %q", got)
	}
}

func TestLastNetworkAndTheGateway(t *testing.T) {
	d := newDaemon(t)
	d.do("network", "create", "--subnet", "10.97.0.0/24", "aaa")
	d.do("run", "-d", "--name", "web", "--hostname", "webhost", "-p", "127.0.0.1:18080:80", "busybox", "httpd", "-f", "-h", "/etc")
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	reachable := func() bool {
		answer, err := client.Get("http://127.0.0.1:18080/hostname")
		if err != nil {
			t.Log(err)
			return false
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		return err == nil && strings.TrimSpace(string(text)) == "webhost"
	}
	route := func() string { return d.do("exec", "web", "ip", "route", "show", "default") }
	for begin := time.Now(); !reachable(); { // until the program listens
		if time.Since(begin) > 30*time.Second {
			t.Fatal("not reachable at first")
		}
	}
	d.do("network", "connect", "aaa", "web")
	if got := route(); !strings.Contains(got, "via 10.97.0.1") {
		t.Errorf("default route by the first name: %s", got)
	}
	if !reachable() {
		t.Error("not reachable by the second network")
	}
	d.do("network", "disconnect", "bridge", "web")
	if !reachable() {
		t.Error("not reachable without the first network")
	}
	d.do("network", "disconnect", "aaa", "web")
	if got := route(); got != "" || reachable() {
		t.Errorf("without a network: route %q, reachable", got)
	}
	if got := d.do("inspect", "-f", "{{len .NetworkSettings.Networks}}", "web"); got != "0" {
		t.Errorf("networks after the last was left: %s", got)
	}
	d.do("network", "connect", "aaa", "web")
	if !reachable() {
		t.Error("not reachable once it is connected again")
	}
	if got := d.try("network", "disconnect", "bridge", "web"); got.code == 0 || !strings.Contains(got.err, "is not connected to network bridge") {
		t.Errorf("disconnect from what it is not on: %+v", got)
	}
}

func TestLegacyLinks(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "db", "--hostname", "dbhost", "-e", "KIND=sql", "--expose", "5432", "busybox", "sleep", "1000")
	d.do("run", "-d", "--name", "web", "--link", "db:my-store", "busybox", "sleep", "1000")
	address := func() string { return d.do("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "db") }
	if got, want := d.do("exec", "web", "cat", "/etc/hosts"), address()+"\tmy-store dbhost db\n"; !strings.Contains(got, want) {
		t.Errorf("hosts lacks %q:\n%s", want, got)
	}
	env := d.do("exec", "web", "env")
	for _, want := range []string{"MY_STORE_PORT=tcp://" + address() + ":5432", "MY_STORE_PORT_5432_TCP_PROTO=tcp", "MY_STORE_NAME=/web/my-store", "MY_STORE_ENV_KIND=sql"} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("environment lacks %s:\n%s", want, env)
		}
	}
	if got := d.do("inspect", "-f", "{{.HostConfig.Links}}", "web"); got != "[/db:/web/my-store]" {
		t.Errorf("links: %s", got)
	}
	d.do("restart", "-t", "0", "db")
	if got, want := d.do("exec", "web", "cat", "/etc/hosts"), address()+"\tmy-store"; !strings.Contains(got, want) {
		t.Errorf("after a restart of the other, hosts lacks %q:\n%s", want, got)
	}
	d.do("stop", "-t", "0", "db", "web")
	if got := d.try("start", "web"); got.code == 0 || !strings.Contains(got.err, "Cannot link to a non running container: /db AS /web/my-store") {
		t.Errorf("start beside a stopped one: %+v", got)
	}
	if got := d.try("run", "--link", "nobody:x", "busybox", "true"); got.code != 125 || !strings.Contains(got.err, "could not get container for nobody: No such container: nobody") {
		t.Errorf("a link to nobody: %+v", got)
	}
}

func TestKindsOfNetworks(t *testing.T) {
	d := newDaemon(t)
	d.do("network", "create", "--ipv6", "--subnet", "fd42:1::/64", "--subnet", "10.96.0.0/24", "--aux-address", "router=10.96.0.2", "--internal", "--attachable", "dual")
	got := d.do("network", "inspect", "-f", "{{.EnableIPv6}} {{.Internal}} {{.Attachable}} {{json .IPAM.Config}}", "dual")
	if got != `true true true [{"Subnet":"10.96.0.0/24","Gateway":"10.96.0.1","AuxiliaryAddresses":{"router":"10.96.0.2"}},{"Subnet":"fd42:1::/64","Gateway":"fd42:1::1"}]` {
		t.Errorf("inspect: %s", got)
	}
	out := d.do("run", "--rm", "--network", "name=dual,ip=10.96.0.9,ip6=fd42:1::9,driver-opt=com.docker.network.endpoint.ifname=lan0", "--name", "probe", "busybox",
		"sh", "-c", "ip -o addr show lan0; ip route; cat /etc/hosts; httpd -p 80 -h /etc; wget -q -O - http://[fd42:1::9]/hostname")
	for _, want := range []string{"10.96.0.9/24", "fd42:1::9/64", "fd42:1::9\t"} {
		if !strings.Contains(out, want) {
			t.Errorf("inside lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "default") {
		t.Errorf("an internal network has a default route:\n%s", out)
	}
	d.do("run", "-d", "--name", "first", "--network", "dual", "busybox", "sleep", "1000")
	if got := d.do("inspect", "-f", "{{with .NetworkSettings.Networks.dual}}{{.IPAddress}} {{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}} {{.Gateway}}{{end}}", "first"); strings.TrimSpace(got) != "10.96.0.3 fd42:1::2/64" {
		t.Errorf("endpoint: %s", got)
	}
	for text, args := range map[string][]string{
		"Pool overlaps with other one on this address space": {"--subnet", "10.96.0.0/16", "x"},
		"doesn't support multiple subnets":                   {"--subnet", "10.95.0.0/24", "--subnet", "10.94.0.0/24", "x"},
		"could not find plugin nothing":                      {"-d", "nothing", "x"},
		"network with name dual already exists":              {"dual"},
	} {
		if got := d.try(append([]string{"network", "create"}, args...)...); got.code == 0 || !strings.Contains(got.err, text) {
			t.Errorf("%v: %+v, want %q", args, got, text)
		}
	}
}

func TestNetworksByTheirIDs(t *testing.T) {
	d := newDaemon(t)
	id := d.do("network", "create", "--subnet", "10.94.0.0/24", "mine")
	second := d.do("network", "create", "--subnet", "10.94.1.0/24", "aaa")
	d.do("run", "-d", "--name", "one", "--network", "name="+id+",ip=10.94.0.7,alias=solo", "--network", second[:12], "busybox", "sleep", "1000")
	if got := d.do("inspect", "-f", "{{range $name, $ep := .NetworkSettings.Networks}}{{$name}} {{$ep.IPAddress}} {{end}}", "one"); got != "aaa 10.94.1.2 mine 10.94.0.7" {
		t.Errorf("networks: %s", got)
	}
	if got := d.do("exec", "one", "ip", "-4", "-o", "addr", "show", "eth0"); !strings.Contains(got, "10.94.0.7/24") {
		t.Errorf("the first network is not eth0: %s", got)
	}
	if got := d.lookup("one", "solo"); got != "10.94.0.7" {
		t.Errorf("the alias is %q", got)
	}
	d.do("network", "disconnect", id[:12], "one")
	if got := d.do("exec", "one", "ls", "/sys/class/net"); got != "eth1\nlo" {
		t.Errorf("after disconnect: %q", got)
	}
	if got := d.try("create", "--network", id, "--network", "mine", "busybox"); got.code == 0 || !strings.Contains(got.err, "network mine is given twice") {
		t.Errorf("one network twice: %+v", got)
	}
	since := time.Now().Format(time.RFC3339Nano)
	d.do("rm", "-f", "one")
	if got := d.do("network", "prune", "-f"); !strings.Contains(got, "aaa") || !strings.Contains(got, "mine") {
		t.Errorf("prune: %s", got)
	}
	events := d.do("events", "--since", since, "--until", time.Now().Format(time.RFC3339Nano), "--filter", "type=network",
		"--format", "{{.Action}} {{.Actor.Attributes.name}}")
	for _, want := range []string{"destroy aaa", "destroy mine", "prune "} {
		if !strings.Contains(events, want) {
			t.Errorf("events lack %q:\n%s", want, events)
		}
	}
}

func TestGatewayByPriority(t *testing.T) {
	d := newDaemon(t)
	for i, name := range []string{"aaa", "bbb", "ccc"} {
		d.do("network", "create", "--subnet", "10.93."+strconv.Itoa(i)+".0/24", name)
	}
	d.do("run", "-d", "--name", "web", "--network", "aaa", "--network", "name=bbb,gw-priority=5", "busybox", "sleep", "1000")
	want := func(when, gateway string) {
		t.Helper()
		if got := d.do("exec", "web", "ip", "route", "show", "default"); !strings.Contains(got, "via "+gateway+" ") {
			t.Errorf("%s: default route %q, want it by %s", when, got, gateway)
		}
	}
	want("by the priority", "10.93.1.1")
	d.do("network", "connect", "--gw-priority", "9", "ccc", "web")
	want("by a higher one", "10.93.2.1")
	d.do("network", "disconnect", "ccc", "web")
	want("once that is gone", "10.93.1.1")
	d.do("network", "disconnect", "bbb", "web")
	want("without any", "10.93.0.1")
}

func TestNetworksOfStoppedContainers(t *testing.T) {
	d := newDaemon(t)
	d.do("network", "create", "--subnet", "10.92.0.0/24", "aaa")
	d.do("network", "create", "--subnet", "10.92.1.0/24", "bbb")
	d.do("create", "--name", "cc", "--network", "aaa", "busybox", "sleep", "1000")
	d.do("network", "connect", "--ip", "10.92.1.9", "--alias", "nick", "bbb", "cc")
	d.do("network", "disconnect", "aaa", "cc")
	d.do("start", "cc")
	if got := d.do("exec", "cc", "sh", "-c", "ls /sys/class/net; ip -4 -o addr show eth0"); !strings.HasPrefix(got, "eth0\nlo\n") || !strings.Contains(got, "10.92.1.9/24") {
		t.Errorf("after the start: %s", got)
	}
	if got := d.lookup("cc", "nick"); got != "10.92.1.9" {
		t.Errorf("the alias is %q", got)
	}
	d.do("stop", "-t", "0", "cc")
	d.do("network", "disconnect", "bbb", "cc")
	d.do("start", "cc")
	if got := d.do("exec", "cc", "ls", "/sys/class/net"); got != "lo" {
		t.Errorf("without a network: %q", got)
	}
	d.do("stop", "-t", "0", "cc")
	d.do("network", "connect", "bridge", "cc")
	d.do("start", "cc")
	if got := d.do("exec", "cc", "ls", "/sys/class/net"); got != "eth0\nlo" {
		t.Errorf("with one again: %q", got)
	}
	d.do("create", "--name", "dd", "--network", "aaa", "busybox", "true")
	d.do("create", "--name", "joined", "--network", "container:cc", "busybox", "true")
	for text, args := range map[string][]string{
		"no configured subnet or ip-range contain the IP address 10.9.9.9":                       {"--ip", "10.9.9.9", "bbb", "cc"},
		"network-scoped alias is supported only for containers in user defined networks":         {"--alias", "x", "bridge", "dd"},
		"container sharing network namespace with another container or host cannot be connected": {"bbb", "joined"},
		"cannot connect container to host network - container must be created in host network":   {"host", "cc"},
	} {
		if got := d.try(append([]string{"network", "connect"}, args...)...); got.code == 0 || !strings.Contains(got.err, text) {
			t.Errorf("connect %v: %+v, want %q", args, got, text)
		}
	}
}
