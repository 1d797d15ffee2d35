package dockerapi_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountsOfEveryType(t *testing.T) {
	d := newDaemon(t)
	here := t.TempDir()
	write(t, filepath.Join(here, "bind/f"), "bound\n")
	write(t, filepath.Join(here, "device/g"), "device\n")
	below := filepath.Join(here, "bind/below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Mount("tmpfs", below, "tmpfs", 0, ""), unix.Mount("", below, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	write(t, filepath.Join(below, "deep"), "deep\n")
	d.do("run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", "mkdir -p /v/sub/dir; echo s >/v/sub/f; ln -s /etc /v/out; ln -s sub /v/link")
	d.do("tag", "busybox", "other:1")
	bind := "type=bind,src=" + filepath.Join(here, "bind") + ",dst=/m"
	for _, c := range []struct{ rule, mount, script, want string }{
		{"bind", bind, "cat /m/f /m/below/deep; touch /m/new && echo written", "bound\ndeep\nwritten"},
		{"bind, not recursive", bind + ",bind-recursive=disabled", "ls /m/below", ""},
		{"bind, read-only all through", bind + ",readonly", "touch /m/x || touch /m/below/x || echo denied", "denied"},
		{"bind, read-only at the top", bind + ",readonly,bind-recursive=writable", "touch /m/x || { touch /m/below/x && echo below; }", "below"},
		{"bind, read-only by force", bind + ",readonly,bind-recursive=readonly,bind-propagation=rprivate", "touch /m/below/x || echo denied", "denied"},
		{"bind, with propagation", bind + ",bind-propagation=rslave", "grep ' /m/below ' /proc/self/mountinfo | grep -c master:", "1"},
		{"volume", "type=volume,src=vol,dst=/m", "cat /m/sub/f", "s"},
		{"volume, part of it", "type=volume,src=vol,dst=/m,volume-subpath=sub", "cat /m/f; ls -d /m/dir", "s\n/m/dir"},
		{"volume, a file of it", "type=volume,src=vol,dst=/m,volume-subpath=sub/f", "cat /m", "s"},
		{"volume, part behind a link", "type=volume,src=vol,dst=/m,volume-subpath=link", "cat /m/f", "s"},
		{"volume, with content of the image", "type=volume,src=filled,dst=/data", "cat /data/seed", "seed"},
		{"volume, without", "type=volume,src=empty,dst=/data,volume-nocopy", "ls /data", ""},
		{"volume, with a label", "type=volume,src=labelled,dst=/data,volume-label=a=b", "true", ""},
		{"volume, of a device", "type=volume,src=dev,dst=/m,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=" + filepath.Join(here, "device"), "cat /m/g", "device"},
		{"volume, of memory", `type=volume,src=mem,dst=/m,volume-opt=type=tmpfs,volume-opt=device=tmpfs,"volume-opt=o=size=1m,uid=1000"`, "stat -c %u /m; df -k /m | tail -1 | awk '{print $2}'", "1000\n1024"},
		{"tmpfs", "type=tmpfs,dst=/m,tmpfs-size=2m,tmpfs-mode=0710", "stat -c %a /m; df -k /m | tail -1 | awk '{print $2}'; grep ' /m ' /proc/mounts | grep -c noexec", "710\n2048\n1"},
		{"image", "type=image,src=other:1,dst=/m", "cat /m/data/seed; echo own >/m/data/seed && cat /m/data/seed /data/seed", "seed\nown\nseed"},
		{"image, read-only", "type=image,src=other:1,dst=/m,readonly", "touch /m/x || cat /m/data/seed", "seed"},
		{"image, part of it", "type=image,src=other:1,dst=/m,image-subpath=data", "cat /m/seed", "seed"},
	} {
		got := d.try("run", "--rm", "--network", "none", "--mount", c.mount, "busybox", "sh", "-c", c.script+" 2>/dev/null")
		if got.code != 0 && c.want != "" || strings.TrimSpace(got.out) != c.want {
			t.Errorf("%s: %+v, want %q", c.rule, got, c.want)
		}
	}
	if out := d.do("volume", "inspect", "--format", "{{.Labels.a}} {{.Options}}", "labelled"); out != "b map[]" {
		t.Errorf("labels: %q", out)
	}
	if out := d.do("volume", "inspect", "--format", "{{.Options.type}} {{.Options.device}}", "mem"); out != "tmpfs tmpfs" {
		t.Errorf("options: %q", out)
	}
	if mounts := read(t, "/proc/self/mountinfo"); strings.Contains(mounts, d.Instance.DataDir+"/volumes") || strings.Contains(mounts, d.Instance.RunDir+"/mounts") {
		t.Errorf("mounted although nothing runs:\n%s", mounts)
	}
	if got := d.try("run", "-d", "--name", "holds", "--mount", "type=image,src=other:1,dst=/m", "busybox", "sleep", "600"); got.code != 0 {
		t.Error(got)
	}
	d.do("rmi", "busybox")
	if got := d.try("rmi", "other:1"); got.code == 0 || !strings.Contains(got.err, "conflict") {
		t.Errorf("an image that is mounted: %+v", got)
	}
}

func TestMountsThatAreRefused(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "--rm", "-v", "vol:/v", "busybox", "ln", "-s", "/etc", "/v/out")
	d.do("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device=/no/such", "broken")
	for _, c := range []struct {
		rule, want string
		args       []string
	}{
		{"a relative target", "mount path must be absolute", []string{"--mount", "type=volume,src=v,dst=m"}},
		{"a missing source", "bind source path does not exist: /no/such", []string{"--mount", "type=bind,src=/no/such,dst=/m"}},
		{"a subpath that leads out", "subpath must be a relative path within the volume", []string{"--mount", "type=volume,src=vol,dst=/m,volume-subpath=../x"}},
		{"a link that leads out", "path concatenation escapes the base directory", []string{"--mount", "type=volume,src=vol,dst=/m,volume-subpath=out"}},
		{"a missing subpath", "cannot access path", []string{"--mount", "type=volume,src=vol,dst=/m,volume-subpath=gone"}},
		{"part of an anonymous volume", "must not set Subpath when using anonymous volumes", []string{"--mount", "type=volume,dst=/m,volume-subpath=x"}},
		{"a read-only anonymous volume", "must not set ReadOnly mode when using anonymous volumes", []string{"--mount", "type=volume,dst=/m,readonly"}},
		{"an unknown image", "No such image: nothing", []string{"--mount", "type=image,src=nothing,dst=/m"}},
		{"a named pipe", "HostConfig.Mounts.Type npipe is not supported", []string{"--mount", `type=npipe,src=\\.\pipe\x,dst=/m`}},
		{"a cluster volume", "HostConfig.Mounts.Type cluster is not supported", []string{"--mount", "type=cluster,src=c,dst=/m"}},
		{"a device that is not there", "failed to mount local volume: mount /no/such:", []string{"-v", "broken:/m"}},
		{"two access modes", "invalid mode: ro,rw", []string{"-v", "/tmp:/m:ro,rw"}},
		{"propagation of a volume", "invalid mode: rshared", []string{"-v", "vol:/m:rshared"}},
		{"nocopy of a bind", "invalid mode: nocopy", []string{"-v", "/tmp:/m:nocopy"}},
	} {
		got := d.try(append(append([]string{"run", "--rm", "--network", "none"}, c.args...), "busybox", "true")...)
		if got.code == 0 || !strings.Contains(got.err, c.want) {
			t.Errorf("%s: %+v, want %q", c.rule, got, c.want)
		}
	}
	for _, c := range []struct {
		rule, want string
		args       []string
	}{
		{"an option without its device", `create odd: missing required option: "device"`, []string{"--opt", "type=nfs"}},
		{"an unknown option", `create odd: invalid option: "shape"`, []string{"--opt", "shape=round"}},
		{"an unknown driver", `plugin "nfs" not found`, []string{"--driver", "nfs"}},
		{"a quota", "create odd: quota size requested but no quota support", []string{"--opt", "size=10m"}},
	} {
		if got := d.try(append(append([]string{"volume", "create"}, c.args...), "odd")...); got.code == 0 || !strings.Contains(got.err, c.want) {
			t.Errorf("%s: %+v, want %q", c.rule, got, c.want)
		}
	}
}

func TestVolumeOfADeviceLivesWithItsContainers(t *testing.T) {
	d := newDaemon(t)
	device := t.TempDir()
	d.do("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device="+device, "dev")
	at := d.do("volume", "inspect", "--format", "{{.Mountpoint}}", "dev")
	mounted := func() bool { return strings.Contains(read(t, "/proc/self/mountinfo"), at+" ") }
	d.do("run", "-d", "--name", "one", "-v", "dev:/m", "busybox", "sleep", "600")
	d.do("run", "-d", "--name", "two", "-v", "dev:/m", "busybox", "sleep", "600")
	d.do("cp", "/etc/hostname", "two:/m/copied")
	if read(t, filepath.Join(device, "copied")) != read(t, "/etc/hostname") {
		t.Error("a copy into the volume did not reach the device")
	}
	d.do("rm", "-f", "one")
	if !mounted() {
		t.Error("unmounted while it is used")
	}
	if got := d.try("volume", "rm", "dev"); got.code == 0 || !strings.Contains(got.err, "volume is in use") {
		t.Errorf("removal of a used volume: %+v", got)
	}
	d.server.Close()
	d.Restart(t)
	d.serve()
	if !mounted() {
		t.Error("unmounted by a restart of the daemon")
	}
	d.do("kill", "two")
	d.do("wait", "two")
	d.do("rm", "two")
	if mounted() {
		t.Error("mounted although nothing uses it")
	}
	d.do("volume", "rm", "dev")
	read(t, filepath.Join(device, "copied"))
}

func TestAnonymousVolumes(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "--rm", "-v", "/a", "-v", "named:/n", "busybox", "true")
	if out := d.do("volume", "ls", "-q"); out != "named" {
		t.Errorf("after --rm: %q", out)
	}
	d.do("run", "--name", "box", "-v", "/a", "busybox", "true")
	d.do("rm", "box")
	if out := d.do("volume", "ls", "-q", "--filter", "dangling=true"); len(strings.Fields(out)) != 2 {
		t.Errorf("after rm without -v: %q", out)
	}
	d.do("run", "--name", "box", "-v", "/a", "--mount", "type=volume,dst=/b", "-v", "named:/n", "busybox", "true")
	d.do("rm", "-v", "box")
	if out := d.do("volume", "ls", "-q"); len(strings.Fields(out)) != 2 {
		t.Errorf("after rm -v: %q", out)
	}
	d.do("volume", "create", "--label", "keep=yes", "kept")
	if out := d.do("volume", "prune", "-f"); strings.Contains(out, "named") || !strings.Contains(out, "Total reclaimed space") {
		t.Errorf("prune takes the anonymous ones only: %s", out)
	}
	if out := d.do("volume", "prune", "-f", "--all", "--filter", "label!=keep=yes"); !strings.Contains(out, "named") || strings.Contains(out, "kept") {
		t.Errorf("prune by label: %s", out)
	}
	if out := d.do("volume", "ls", "-q", "--filter", "label=keep", "--filter", "name=ep", "--filter", "driver=local"); out != "kept" {
		t.Errorf("list by filters: %q", out)
	}
	if out := d.do("volume", "prune", "-f", "--all", "--filter", "label=keep"); !strings.Contains(out, "kept") {
		t.Errorf("prune by label: %s", out)
	}
}
