package volume

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	dvolume "github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }

func TestOptionsAreTheReferences(t *testing.T) {
	for rule, c := range map[string]struct {
		options map[string]string
		want    string
	}{
		"none":                     {nil, ""},
		"a whole mount":            {map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, ""},
		"an unknown one":           {map[string]string{"color": "red"}, `invalid option: "color"`},
		"a type needs a device":    {map[string]string{"type": "nfs"}, `missing required option: "device"`},
		"a device needs a type":    {map[string]string{"device": "/dev/x"}, `missing required option: "type"`},
		"options need a device":    {map[string]string{"o": "bind", "type": "none"}, `missing required option: "device"`},
		"a port in CIFS":           {map[string]string{"type": "cifs", "device": "//h:1/s"}, "port not allowed in CIFS device URL, include 'port' in 'o='"},
		"a size":                   {map[string]string{"size": "1g"}, "quota size requested but no quota support"},
		"a size that says nothing": {map[string]string{"size": "0"}, ""},
		"a size that is none":      {map[string]string{"size": "big"}, "invalid size: 'big'"},
	} {
		err := validateOptions(c.options)
		if c.want == "" && err == nil {
			continue
		}
		if err == nil || err.Error() != c.want || !errors.Is(err, problem.Invalid) {
			t.Errorf("%s: %v, want %q", rule, err, c.want)
		}
	}
}

func TestMountCall(t *testing.T) {
	resolve := func(_ context.Context, host string) (net.IP, error) {
		if host != "server" {
			return nil, errors.New("no such host")
		}
		return net.IPv4(10, 1, 2, 3), nil
	}
	for rule, c := range map[string]struct {
		options map[string]string
		want    mountCall
		failure string
	}{
		"flags and data": {map[string]string{"type": "tmpfs", "device": "t", "o": "ro,noexec,size=1m,uid=5"},
			mountCall{"t", "tmpfs", unix.MS_RDONLY | unix.MS_NOEXEC, 0, "size=1m,uid=5"}, ""},
		"a later option wins":       {map[string]string{"type": "none", "device": "/d", "o": "bind,ro,rw"}, mountCall{"/d", "none", unix.MS_BIND, 0, ""}, ""},
		"propagation is a call":     {map[string]string{"type": "none", "device": "/d", "o": "rbind,rshared"}, mountCall{"/d", "none", unix.MS_BIND | unix.MS_REC, unix.MS_SHARED | unix.MS_REC, ""}, ""},
		"the name of an NFS server": {map[string]string{"type": "nfs", "device": ":/x", "o": "addr=server,rw"}, mountCall{":/x", "nfs", 0, 0, "addr=10.1.2.3"}, ""},
		"its address stays":         {map[string]string{"type": "nfs", "device": ":/x", "o": "addr=10.9.9.9"}, mountCall{":/x", "nfs", 0, 0, "addr=10.9.9.9"}, ""},
		"a CIFS server in the URL":  {map[string]string{"type": "cifs", "device": "//server/a%20b", "o": "guest"}, mountCall{"//10.1.2.3/a b", "cifs", 0, 0, "guest"}, ""},
		"an unknown server":         {map[string]string{"type": "nfs", "device": ":/x", "o": "addr=gone"}, mountCall{}, "error resolving passed in network volume address: no such host"},
	} {
		got, err := mountCallOf(c.options).withAddresses(context.Background(), resolve)
		if c.failure != "" {
			if err == nil || err.Error() != c.failure {
				t.Errorf("%s: %v, want %q", rule, err, c.failure)
			}
		} else if got != c.want || err != nil {
			t.Errorf("%s: %+v, %v, want %+v", rule, got, err, c.want)
		}
	}
}

func TestVolumeIsMountedWhileItIsUsed(t *testing.T) {
	testenv.NeedRoot(t)
	ctx, dir, device := context.Background(), t.TempDir(), t.TempDir()
	s := open(t, dir)
	_, err := s.Create(ctx, dvolume.CreateRequest{Name: "bound", DriverOpts: map[string]string{"type": "none", "device": device, "o": "bind"}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(device, "f")
	inside := filepath.Join(dir, "bound", dataDir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	seen := func() bool {
		_, err := os.Stat(inside)
		return err == nil
	}
	use := func(owner string) {
		t.Helper()
		if err := s.Use(ctx, "bound", owner); err != nil {
			t.Fatal(err)
		}
	}
	use("a")
	use("a")
	use("b")
	if err := s.Done("bound", "a"); err != nil || !seen() {
		t.Fatalf("with one user left: mounted %v, %v", seen(), err)
	}
	if err := s.Done("bound", "b"); err != nil || seen() {
		t.Fatalf("with no user left: mounted %v, %v", seen(), err)
	}
	use("c")
	s = open(t, dir) // the process was killed
	if err := s.Sweep(); err != nil || seen() {
		t.Fatalf("after a restart: mounted %v, %v", seen(), err)
	}
	use("d")
	if size, err := s.Size(ctx, "bound"); size != UnknownSize || err != nil {
		t.Errorf("size: %d, %v", size, err)
	}
	if err := s.Remove(ctx, "bound"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the removal of a volume reached its device: %v", err)
	}
}

func TestHalfRemovedVolumeThatIsMounted(t *testing.T) {
	testenv.NeedRoot(t)
	ctx, dir, device := context.Background(), t.TempDir(), t.TempDir()
	s := open(t, dir)
	options := map[string]string{"type": "none", "device": device, "o": "bind"}
	if _, err := s.Create(ctx, dvolume.CreateRequest{Name: "bound", DriverOpts: options}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(device, "f")
	err := errors.Join(os.WriteFile(file, nil, 0o600), s.Use(ctx, "bound", "a"), os.Remove(filepath.Join(dir, "bound", recordFile)))
	if err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the clean-up at start reached the device: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "bound")); !os.IsNotExist(err) {
		t.Errorf("the half-removed volume is still there: %v", err)
	}
}

func TestFailedMount(t *testing.T) {
	testenv.NeedRoot(t)
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	for name, options := range map[string]map[string]string{
		"gone":   {"type": "none", "device": "/no/such/device", "o": "bind,password=secret"},
		"nobody": {"type": "nosuchfs", "device": "x"},
	} {
		if _, err := s.Create(ctx, dvolume.CreateRequest{Name: name, DriverOpts: options}); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(dir, "gone", dataDir)
	want := "error while mounting volume '" + data + "': failed to mount local volume: mount /no/such/device:" + data +
		", flags: 0x1000, data: password=********: no such file or directory"
	if err := s.Use(ctx, "gone", "a"); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err := s.Use(ctx, "nobody", "a"); err == nil || !strings.Contains(err.Error(), "no such device") {
		t.Errorf("an unknown file system: %v", err)
	}
}
