package engine

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	dmount "github.com/moby/moby/api/types/mount"
	dnetwork "github.com/moby/moby/api/types/network"

	"gantry/internal/problem"
)

func TestAfterExit(t *testing.T) {
	policy := func(name string, tries int) dcontainer.RestartPolicy {
		return dcontainer.RestartPolicy{Name: dcontainer.RestartPolicyMode(name), MaximumRetryCount: tries}
	}
	for name, c := range map[string]struct {
		policy  dcontainer.RestartPolicy
		end     ending
		restart bool
		delay   time.Duration
	}{
		"no policy":                        {policy("no", 0), ending{code: 1}, false, 0},
		"always, even after success":       {policy("always", 0), ending{}, true, firstBackoff},
		"never after a stop":               {policy("always", 0), ending{stopped: true}, false, 0},
		"on-failure after success":         {policy("on-failure", 0), ending{}, false, 0},
		"on-failure without a bound":       {policy("on-failure", 0), ending{code: 1, restarts: 99, backoff: time.Second}, true, 2 * time.Second},
		"on-failure at its bound":          {policy("on-failure", 3), ending{code: 1, restarts: 3}, false, 0},
		"unless-stopped":                   {policy("unless-stopped", 0), ending{code: 1, backoff: 40 * time.Second}, true, lastBackoff},
		"a long run begins the delay anew": {policy("always", 0), ending{ran: time.Minute, backoff: time.Minute}, true, firstBackoff},
	} {
		restart, delay, count := afterExit(c.policy, c.end)
		if restart != c.restart || delay != c.delay {
			t.Errorf("%s: %t after %v, want %t after %v", name, restart, delay, c.restart, c.delay)
		}
		if restart && count != c.end.restarts+1 {
			t.Errorf("%s: restart %d after %d", name, count, c.end.restarts)
		}
	}
}

func TestAfterBoot(t *testing.T) {
	for name, c := range map[string]struct {
		policy                     string
		everStarted, stopped, lost bool
		code                       int
		want                       bool
	}{
		"no policy":                           {"no", true, false, true, 1, false},
		"never started":                       {"always", false, false, false, 0, false},
		"always, although stopped":            {"always", true, true, false, 0, true},
		"unless-stopped, stopped":             {"unless-stopped", true, true, false, 0, false},
		"unless-stopped, running at the end":  {"unless-stopped", true, false, true, 255, true},
		"on-failure, running at the end":      {"on-failure", true, false, true, 255, true},
		"on-failure, ended well before":       {"on-failure", true, false, false, 0, false},
		"on-failure, stopped":                 {"on-failure", true, true, false, 137, false},
		"on-failure, failed before, not lost": {"on-failure", true, false, false, 1, true},
	} {
		policy := dcontainer.RestartPolicy{Name: dcontainer.RestartPolicyMode(c.policy)}
		if got := afterBoot(policy, c.everStarted, c.stopped, c.lost, c.code, 0); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

func TestFateOf(t *testing.T) {
	for name, c := range map[string]struct {
		status                dcontainer.ContainerState
		opened, started, done bool
		want                  fate
	}{
		"it runs":                            {"running", true, true, false, adopt},
		"it runs, the record is older":       {"created", true, true, false, adopt},
		"it is paused":                       {"paused", true, true, false, adopt},
		"it ended meanwhile":                 {"running", true, true, true, ended},
		"only the exit record is left":       {"running", true, false, true, ended},
		"its end was recorded, not its rest": {"exited", true, true, true, discard},
		"made ready, never executed":         {"running", true, false, false, discard},
		"the host was rebooted":              {"running", false, false, false, lost},
		"paused at the reboot":               {"paused", false, false, false, lost},
		"it rests":                           {"exited", false, false, false, rest},
	} {
		if got := fateOf(c.status, c.opened, c.started, c.done); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestParseBind(t *testing.T) {
	point := func(kind dmount.Type, source, name, target string) mountPoint {
		p := mountPoint{MountPoint: dcontainer.MountPoint{Type: kind, Source: source, Name: name, Destination: target, RW: true}}
		if kind == dmount.TypeVolume {
			p.Driver, p.Anonymous = "local", name == ""
		} else {
			p.CreateSource, p.Propagation = true, "rprivate"
		}
		return p
	}
	readOnly := point(dmount.TypeBind, "/a", "", "/b")
	readOnly.RW, readOnly.Mode, readOnly.Propagation = false, "ro,rslave", "rslave"
	noCopy := point(dmount.TypeVolume, "", "v", "/b")
	noCopy.NoCopy, noCopy.Mode = true, "nocopy"
	for text, want := range map[string]*mountPoint{
		"/a:/b":           new(point(dmount.TypeBind, "/a", "", "/b")),
		"/a/../c/:/b/":    new(point(dmount.TypeBind, "/c", "", "/b")),
		"/a:/b:ro,rslave": &readOnly,
		"v:/b":            new(point(dmount.TypeVolume, "", "v", "/b")),
		"v:/b:nocopy":     &noCopy,
		"/b":              new(point(dmount.TypeVolume, "", "", "/b")),
		"":                nil,
		"/a:b":            nil,
		"/a:/":            nil,
		"/a:/b:rw:x":      nil,
		"/a:/b:nocopy":    nil,
		"v:/b:rshared":    nil,
		"/a:/b:sometimes": nil,
		"::":              nil,
	} {
		got, err := parseBind(text)
		if want == nil {
			if !errors.Is(err, problem.Invalid) {
				t.Errorf("%q: %+v, %v, want Invalid", text, got, err)
			}
			continue
		}
		if diff := cmp.Diff(*want, got); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", text, err, diff)
		}
	}
}

func TestPlanMounts(t *testing.T) {
	cfg := &dcontainer.Config{Volumes: map[string]struct{}{"/data": {}, "/image": {}}}
	host := &dcontainer.HostConfig{
		Binds:       []string{"named:/data/sub", "/host:/data"},
		VolumesFrom: []string{"other:ro"},
		Tmpfs:       map[string]string{"/tmp": "size=1m,exec"},
	}
	others := func(string) ([]mountPoint, error) {
		return []mountPoint{{MountPoint: dcontainer.MountPoint{Type: dmount.TypeVolume, Name: "theirs", Destination: "/theirs", RW: true}, Anonymous: true}}, nil
	}
	points, err := planMounts(cfg, host, others)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range points {
		got = append(got, strings.Join([]string{p.Destination, string(p.Type), p.Name + p.Source, strings.Join(p.Options, ",")}, " "))
	}
	want := []string{
		"/data bind /host ", "/data/sub volume named ", "/image volume  ",
		"/theirs volume theirs ", "/tmp tmpfs  nosuid,nodev,size=1m",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if points[3].RW || points[3].Anonymous {
		t.Error("a volume from another container is writable, or removed with this one")
	}
	host.Mounts = []dmount.Mount{{Type: dmount.TypeTmpfs, Target: "/data"}}
	if _, err := planMounts(cfg, host, others); err == nil || err.Error() != "Duplicate mount point: /data" {
		t.Errorf("two mounts at one place: %v", err)
	}
}

func TestMergeImage(t *testing.T) {
	image := &dockerspec.DockerOCIImageConfig{}
	image.Entrypoint, image.Cmd, image.Env = []string{"entry"}, []string{"default"}, []string{"A=1", "B=2"}
	image.User, image.WorkingDir, image.StopSignal = "web", "/app", "SIGINT"
	image.ExposedPorts = map[string]struct{}{"80/tcp": {}, "8000-8001/udp": {}}
	image.Labels = map[string]string{"a": "image", "b": "image"}
	image.Volumes = map[string]struct{}{"/v": {}}
	for name, c := range map[string]struct {
		request  dcontainer.Config
		argv     string
		env      string
		overload string
	}{
		"nothing asked for":            {dcontainer.Config{}, "entry default", "A=1 B=2", ""},
		"a command":                    {dcontainer.Config{Cmd: []string{"mine"}}, "entry mine", "A=1 B=2", ""},
		"an entrypoint drops the Cmd":  {dcontainer.Config{Entrypoint: []string{"other"}}, "other", "A=1 B=2", ""},
		"an empty entrypoint":          {dcontainer.Config{Entrypoint: []string{""}, Cmd: []string{"sh"}}, "sh", "A=1 B=2", ""},
		"a variable replaced and gone": {dcontainer.Config{Env: []string{"A=9", "B", "C=3"}}, "entry default", "A=9 C=3", ""},
	} {
		merged, err := mergeImage(&c.request, image)
		if err != nil {
			t.Fatal(err)
		}
		program, args, err := command(merged)
		if got := strings.Join(append([]string{program}, args...), " "); got != c.argv || err != nil {
			t.Errorf("%s: runs %q, %v, want %q", name, got, err, c.argv)
		}
		if got := strings.Join(merged.Env, " "); got != c.env {
			t.Errorf("%s: env %q, want %q", name, got, c.env)
		}
		if merged.User != "web" || merged.WorkingDir != "/app" || merged.StopSignal != "SIGINT" || len(merged.ExposedPorts) != 3 || len(merged.Volumes) != 1 {
			t.Errorf("%s: merged %+v", name, merged)
		}
	}
	if _, _, err := command(&dcontainer.Config{}); !errors.Is(err, problem.Invalid) {
		t.Errorf("no command at all: %v", err)
	}
}

func TestWhatIsNotSupportedIsNamed(t *testing.T) {
	for field, h := range map[string]dcontainer.HostConfig{
		"HostConfig.Cgroup":            {Cgroup: "container:x"},
		"HostConfig.Mounts.Type npipe": {Mounts: []dmount.Mount{{Type: dmount.TypeNamedPipe}}},
	} {
		if err := validateHost(&h); !errors.Is(err, problem.Unsupported) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	for option, want := range map[string]error{"label=type:x": problem.Unsupported, "label=disable": nil, "apparmor=other": nil} {
		s, err := parseSecurity([]string{option})
		if err != nil {
			t.Errorf("%s: %v", option, err)
		}
		if err := refuseLabels(s, true); !errors.Is(err, want) {
			t.Errorf("%s: %v", option, err)
		}
		if err := refuseLabels(s, false); err != nil {
			t.Errorf("%s on a host without SELinux: %v", option, err)
		}
	}
	for _, option := range []string{"systempaths=unconfined", "unknown=1", "nothing", "no-new-privileges=maybe", "writable-cgroups=maybe", "writable-cgroups"} {
		if _, err := parseSecurity([]string{option}); !errors.Is(err, problem.Invalid) || !strings.Contains(err.Error(), option) {
			t.Errorf("%s: %v", option, err)
		}
	}
}

func TestBadHostConfigs(t *testing.T) {
	for want, h := range map[string]dcontainer.HostConfig{
		"Unknown option speed":                                  {StorageOpt: map[string]string{"speed": "1"}},
		"--storage-opt is supported only for overlay over xfs":  {StorageOpt: map[string]string{"size": "1g"}},
		"linux only supports 'default'":                         {Isolation: "hyperv"},
		"Minimum memory limit allowed is 6MB":                   {Resources: dcontainer.Resources{Memory: 1 << 20}},
		"can't create 'AutoRemove' container":                   {AutoRemove: true, RestartPolicy: dcontainer.RestartPolicy{Name: "always"}},
		"unknown policy 'sometimes'":                            {RestartPolicy: dcontainer.RestartPolicy{Name: "sometimes"}},
		"invalid port specification":                            {PortBindings: dnetwork.PortMap{dnetwork.MustParsePort("80/tcp"): {{HostPort: "x"}}}},
		"range of CPUs is from":                                 {Resources: dcontainer.Resources{NanoCPUs: 1e15}},
		"invalid IPC mode":                                      {IpcMode: "strange"},
		"invalid PID mode":                                      {PidMode: "strange"},
		"not allowed in host network":                           {NetworkMode: "host", Sysctls: map[string]string{"net.x": "1"}},
		"is not in a separate kernel":                           {Sysctls: map[string]string{"vm.swappiness": "1"}},
		"must be without":                                       {Resources: dcontainer.Resources{CgroupParent: "/x/../y"}},
		"valid memory swappiness range is 0-100":                {Resources: dcontainer.Resources{MemorySwappiness: pointer(int64(101))}},
		"Range of blkio weight is from 10 to 1000":              {Resources: dcontainer.Resources{BlkioWeight: 5}},
		"You should always set the Memory limit when using":     {Resources: dcontainer.Resources{MemorySwap: 1 << 30}},
		"Minimum memoryswap limit should be larger than memory": {Resources: dcontainer.Resources{Memory: 1 << 30, MemorySwap: 1 << 20}},
		"unknown or invalid runtime name: kata":                 {Runtime: "kata"},
		"max-file cannot be less than 1":                        {LogConfig: dcontainer.LogConfig{Config: map[string]string{"max-file": "0"}}},
	} {
		if err := validateHost(&h); !errors.Is(err, problem.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	possible := []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}
	for name, c := range map[string]struct {
		host dcontainer.HostConfig
		has  string
		not  string
	}{
		"added without its prefix": {dcontainer.HostConfig{CapAdd: []string{"sys_admin"}}, "CAP_SYS_ADMIN", ""},
		"dropped":                  {dcontainer.HostConfig{CapDrop: []string{"CAP_KILL"}}, "CAP_CHOWN", "CAP_KILL"},
		"all dropped, one added":   {dcontainer.HostConfig{CapDrop: []string{"all"}, CapAdd: []string{"KILL"}}, "CAP_KILL", "CAP_CHOWN"},
		"all added, one dropped":   {dcontainer.HostConfig{CapDrop: []string{"CHOWN"}, CapAdd: []string{"ALL"}}, "CAP_SYS_ADMIN", "CAP_CHOWN"},
		"privileged":               {dcontainer.HostConfig{Privileged: true}, "CAP_SYS_ADMIN", "CAP_KILL"},
	} {
		caps, err := capabilitiesFor(&c.host, possible)
		joined := " " + strings.Join(caps, " ") + " "
		if err != nil || !strings.Contains(joined, " "+c.has+" ") || c.not != "" && strings.Contains(joined, " "+c.not+" ") {
			t.Errorf("%s: %v, %v", name, caps, err)
		}
	}
	if _, err := capabilitiesFor(&dcontainer.HostConfig{CapAdd: []string{"FLY"}}, possible); !errors.Is(err, problem.Invalid) {
		t.Errorf("an unknown capability: %v", err)
	}
}

func TestAfterProbe(t *testing.T) {
	check := dcontainer.HealthConfig{Retries: 2}
	h := dcontainer.Health{Status: dcontainer.Starting}
	for i, step := range []struct {
		code     int
		starting bool
		want     dcontainer.HealthStatus
		streak   int
	}{
		{1, true, dcontainer.Starting, 0}, // failures do not count yet
		{1, false, dcontainer.Starting, 1},
		{0, false, dcontainer.Healthy, 0},
		{1, false, dcontainer.Healthy, 1},
		{-1, false, dcontainer.Unhealthy, 2},
		{0, false, dcontainer.Healthy, 0},
	} {
		h = afterProbe(h, dcontainer.HealthcheckResult{ExitCode: step.code}, check, step.starting)
		if h.Status != step.want || h.FailingStreak != step.streak {
			t.Errorf("step %d: %s %d, want %s %d", i, h.Status, h.FailingStreak, step.want, step.streak)
		}
	}
	if len(h.Log) != healthLogEntries {
		t.Errorf("%d results kept", len(h.Log))
	}
}

func TestProbes(t *testing.T) {
	own := &dcontainer.Config{Shell: []string{"/bin/ash", "-ec"}}
	for name, c := range map[string]struct {
		config *dcontainer.Config
		test   []string
		want   []string // nil: no check
	}{
		"a program":                     {&dcontainer.Config{}, []string{"CMD", "probe", "-q"}, []string{"probe", "-q"}},
		"a script":                      {&dcontainer.Config{}, []string{"CMD-SHELL", "a || b"}, []string{"/bin/sh", "-c", "a || b"}},
		"a script of the image's shell": {own, []string{"CMD-SHELL", "a || b"}, []string{"/bin/ash", "-ec", "a || b"}},
		"a script with arguments":       {&dcontainer.Config{}, []string{"CMD-SHELL", "$0", "b"}, []string{"/bin/sh", "-c", "$0", "b"}},
		"switched off":                  {own, []string{"NONE"}, nil},
		"a kind that nobody knows":      {own, []string{"TCP", "80"}, nil},
		"none of its own":               {own, nil, nil},
	} {
		check := dcontainer.HealthConfig{Test: c.test}
		if got := checked(&check); got != (c.want != nil) {
			t.Errorf("%s: checked %v", name, got)
			continue
		}
		if c.want == nil {
			continue
		}
		if diff := cmp.Diff(c.want, probeCommand(c.config, check)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	if checked(nil) || unchecked(nil) != nil {
		t.Error("no check at all is one")
	}
	long := head{limit: 4}
	for _, part := range []string{"ab", "cd", "e"} {
		if n, err := long.Write([]byte(part)); n != len(part) || err != nil {
			t.Error(n, err)
		}
	}
	if got := long.String(); got != "abcd..." {
		t.Errorf("got %q", got)
	}
}

func TestEventFilters(t *testing.T) {
	ev := Event{Type: devents.ContainerEventType, Action: "health_status: healthy", Scope: "local",
		Actor: devents.Actor{ID: "0123456789abcdef", Attributes: map[string]string{"name": "web", "image": "app:1", "tier": "front"}}}
	for name, c := range map[string]struct {
		filters Filters
		want    bool
	}{
		"none":                {nil, true},
		"the type":            {Filters{"type": {"container"}}, true},
		"another type":        {Filters{"type": {"image"}}, false},
		"the name":            {Filters{"container": {"web"}}, true},
		"the beginning of ID": {Filters{"container": {"0123"}}, true},
		"another container":   {Filters{"container": {"db"}}, false},
		"the action's family": {Filters{"event": {"health_status"}}, true},
		"another action":      {Filters{"event": {"die"}}, false},
		"a label":             {Filters{"label": {"tier=front"}}, true},
		"another label":       {Filters{"label": {"tier=back"}}, false},
		"the bare image":      {Filters{"image": {"app"}}, true},
		"a network":           {Filters{"network": {"web"}}, false},
	} {
		if got := eventMatches(c.filters, ev); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestEventLogForgetsTheOldest(t *testing.T) {
	l := newEventLog(slog.New(slog.DiscardHandler))
	for i := range eventsKept + 10 {
		l.add(Event{TimeNano: int64(i)})
	}
	list, next, _ := l.from(0)
	if next != eventsKept+10 || list[len(list)-1].TimeNano != eventsKept+9 || len(list) > eventsKept {
		t.Errorf("%d events, next %d", len(list), next)
	}
	if list, _, _ := l.from(next - 1); len(list) != 1 {
		t.Errorf("the last one only: %d", len(list))
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"web": true, "a": false, "a.b-c_d": true, "-x": false, "a/b": false, "é": false} {
		if err := checkName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := checkName(randomName()); err != nil {
		t.Error(err)
	}
	if id := newID(); len(id) != 64 {
		t.Errorf("ID %q", id)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"1136073845":                     time.Unix(1136073845, 0),
		"1136073845.000000001":           time.Unix(1136073845, 1),
		"1136073845.5":                   time.Unix(1136073845, 5e8),
		"1h30m":                          now.Add(-90 * time.Minute),
		"2026-01-02T15:04:05.999Z":       time.Date(2026, 1, 2, 15, 4, 5, 999e6, time.UTC),
		"2026-01-02T15:04:05":            time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC),
		"2026-01-02":                     time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
		"2026-01-02T15:04:05.1234+02:00": time.Date(2026, 1, 2, 13, 4, 5, 123400000, time.UTC),
	} {
		if got, err := ParseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "yesterday", "1.", "1.0000000000", "99999999999999999999"} {
		if got, err := ParseTime(text, now); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
}

func TestResolveUser(t *testing.T) {
	passwd := []byte("root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\nbroken line\n")
	group := []byte("root:x:0:\nstaff:x:50:web,root\nweb:x:1001:\n")
	for spec, want := range map[string]string{
		"": "0 0 [0 50] /root", "web": "1000 1001 [1001 50] /home/web", "1000": "1000 1001 [1001 50] /home/web",
		"web:staff": "1000 50 [50] /home/web", "7:8": "7 8 [8] /",
	} {
		a, err := resolveUser(spec, nil, passwd, group)
		got := strings.Join([]string{decimal(uint16(a.User.UID)), decimal(uint16(a.User.GID)), strings.ReplaceAll(strings.TrimSpace(cmpGroups(a.User.AdditionalGids)), ",", ""), a.Home}, " ")
		if err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", spec, got, err, want)
		}
	}
	if _, err := resolveUser("nobody", nil, passwd, group); !errors.Is(err, problem.Invalid) {
		t.Errorf("an unknown user: %v", err)
	}
}

func cmpGroups(gids []uint32) string {
	var words []string
	for _, g := range gids {
		words = append(words, decimal(uint16(g)))
	}
	return "[" + strings.Join(words, " ") + "]"
}

func TestParseStat(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p, err := parseStat("42 (a ) (name) S 7 42 42 34816 42 4194304 1 0 0 0 150 50 0 0 20 0 1 0 99000 4096000 25 18446744073709551615", "1000.00 0", now)
	if err != nil {
		t.Fatal(err)
	}
	if p.name != "a ) (name" || p.ppid != 7 || p.tty != "pts/0" || p.cpu != 2*time.Second || !p.started.Equal(now.Add(-10*time.Second)) || p.virtual != 4000 {
		t.Errorf("%+v", p)
	}
	if _, err := parseStat("42 (x", "1", now); err == nil {
		t.Error("a torn line is accepted")
	}
	if _, err := parsePsArgs([]string{"-o", "pid,magic"}); !errors.Is(err, problem.Unsupported) {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestPsArguments(t *testing.T) {
	for args, want := range map[string]string{
		"":                  "uname pid ppid c stime tty time cmd",
		"-ef":               "uname pid ppid c stime tty time cmd",
		"aux":               "user pid %cpu %mem vsz rss tty stat start bsdtime command",
		"-auxww":            "user pid %cpu %mem vsz rss tty stat start bsdtime command",
		"ax -o pid,pcpu,tt": "pid %cpu tty",
		"-eopid,args":       "pid args",
	} {
		got, err := parsePsArgs([]string{args})
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("ps %s: %q, %v, want %q", args, got, err, want)
		}
	}
	for args, want := range map[string]string{
		"-o args": "Couldn't find PID field in ps output", "-": "is not supported", "--forest": "is not supported", "-o pid,magic": `ps field "magic"`,
	} {
		if _, err := parsePsArgs([]string{args}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ps %s: %v, want %q", args, err, want)
		}
	}
	p := process{pid: 7, group: 7, session: 7, foreground: 7, threads: 2, nice: 1, state: "S", rss: 100, memory: 1000, cpu: 65 * time.Second}
	if got := columns["stat"].value(p) + " " + columns["%mem"].value(p) + " " + columns["bsdtime"].value(p); got != "SNsl+ 10.0 1:05" {
		t.Errorf("columns: %q", got)
	}
	for d, want := range map[time.Duration]string{65 * time.Second: "01:05", 3700 * time.Second: "01:01:40", 90061 * time.Second: "1-01:01:01"} {
		if got := elapsed(d); got != want {
			t.Errorf("elapsed %s: %q, want %q", d, got, want)
		}
	}
}

func FuzzParseBind(f *testing.F) {
	for _, seed := range []string{"/a:/b:ro", "v:/b:nocopy,z", "/b", "a:b:c:d", ":/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseBind(text)
		if err == nil && (!strings.HasPrefix(p.Destination, "/") || p.Destination == "/" || strings.Contains(p.Destination, "..") && strings.Contains(p.Destination+"/", "/../")) {
			t.Errorf("%q mounts at %q", text, p.Destination)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, seed := range []string{"1.5", "1h", "2026-01-02T15:04:05Z", "-1", "1.000000000"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ParseTime(text, time.Unix(0, 0)); err != nil && !errors.Is(err, problem.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (sh) S 1 42 42 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 99 4096 25 1", "1.0 2.0")
	f.Fuzz(func(t *testing.T, stat, uptime string) {
		_, _ = parseStat(stat, uptime, time.Unix(0, 0))
		_, _, _ = parseNetDev(stat)
	})
}
