package apparmor

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestProfile(t *testing.T) {
	none, bare, full := Support{}, Support{Enabled: true}, Support{Enabled: true, Default: true}
	for name, c := range map[string]struct {
		host       Support
		option     string
		privileged bool
		want       string
	}{
		"no AppArmor":                               {none, "", false, ""},
		"no AppArmor, options mean nothing":         {none, "mine", false, ""},
		"no AppArmor, unconfined":                   {none, Unconfined, false, ""},
		"no AppArmor, privileged":                   {none, "", true, ""},
		"the default":                               {full, "", false, Default},
		"a profile by name":                         {full, "mine", false, "mine"},
		"unconfined":                                {full, Unconfined, false, Unconfined},
		"privileged":                                {full, "", true, Unconfined},
		"privileged is stronger than an option":     {full, "mine", true, Unconfined},
		"nothing can load the default":              {bare, "", false, ""},
		"nothing can load the default, by name":     {bare, "mine", false, "mine"},
		"nothing can load the default, privileged":  {bare, "", true, Unconfined},
		"nothing can load the default, asked for":   {bare, Default, false, Default},
		"nothing can load the default, unconfined":  {bare, Unconfined, false, Unconfined},
		"the default by name is the default itself": {full, Default, false, Default},
	} {
		if got := c.host.Profile(c.option, c.privileged); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// fakeHost makes a host of files; those that are empty are not there.
func fakeHost(t *testing.T, enabled, profiles string) (f files, dir string) {
	t.Helper()
	dir = t.TempDir()
	f = files{enabled: filepath.Join(dir, "enabled"), profiles: filepath.Join(dir, "profiles"), current: filepath.Join(dir, "current"), parts: dir}
	for file, text := range map[string]string{f.enabled: enabled, f.profiles: profiles} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("APPARMOR_TEST", dir)
	return f, dir
}

const others = "lsb_release (enforce)\ndocker-default-other (enforce)\n"

func TestLook(t *testing.T) {
	for name, c := range map[string]struct {
		enabled, profiles, parser string
		want                      Support
	}{
		"no such module":                {"", "", "parser", Support{}},
		"switched off":                  {"N\n", others, "parser", Support{}},
		"no list, as inside containers": {"Y\n", "", "parser", Support{}},
		"no parser":                     {"Y\n", others, "", Support{Enabled: true}},
		"no parser, but loaded":         {"Y\n", others + "docker-default (enforce)\n", "", Support{Enabled: true, Default: true}},
		"a parser":                      {"Y\n", others, "parser", Support{Enabled: true, Default: true}},
	} {
		f, _ := fakeHost(t, c.enabled, c.profiles)
		if got := look(f, c.parser).Support; got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	Look() // whatever this host has
}

func TestTheDefaultIsLoadedOnce(t *testing.T) {
	f, dir := fakeHost(t, "Y\n", others)
	parser, err := filepath.Abs("testdata/parser")
	if err != nil {
		t.Fatal(err)
	}
	h := look(f, parser)
	for _, profile := range []string{"", Unconfined, "mine"} {
		if err := h.Ensure(t.Context(), profile); err != nil {
			t.Errorf("%q: %v", profile, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "runs")); err == nil {
		t.Error("loaded although nobody uses it")
	}
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			if err := h.Ensure(t.Context(), Default); err != nil {
				t.Error(err)
			}
		})
	}
	users.Wait()
	if runs, err := os.ReadFile(filepath.Join(dir, "runs")); string(runs) != "run\n" || err != nil {
		t.Errorf("runs of the parser: %q, %v", runs, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "text"))
	if want := defaultProfile(Unconfined, h.hasPart); string(text) != want || err != nil {
		t.Errorf("loaded %q, %v, want %q", text, err, want)
	}
	// Something on the host has dropped it.
	if err := os.WriteFile(f.profiles, []byte(others), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.Ensure(t.Context(), Default); err != nil {
		t.Error(err)
	}
	if loaded, err := h.loaded(Default); !loaded || err != nil {
		t.Errorf("loaded again: %v, %v", loaded, err)
	}
}

func TestWhatCannotBeLoadedIsSaid(t *testing.T) {
	f, dir := fakeHost(t, "Y\n", others)
	parser, err := filepath.Abs("testdata/parser")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "refuse"), nil, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	const frame = "AppArmor enabled on system but the docker-default profile could not be loaded: "
	if err := look(f, parser).Ensure(t.Context(), Default); err == nil || !strings.HasPrefix(err.Error(), frame) || !strings.Contains(err.Error(), "AppArmor parser error") {
		t.Errorf("a parser that refuses: %v", err)
	}
	h := look(f, "")
	h.Default = true // it was loaded, and has been dropped
	if err := h.Ensure(t.Context(), Default); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("no parser: %v", err)
	}
	if err := os.Remove(f.profiles); err != nil {
		t.Fatal(err)
	}
	if err := h.Ensure(t.Context(), Default); err == nil || !strings.HasPrefix(err.Error(), "could not check if docker-default AppArmor profile was loaded: ") {
		t.Errorf("no list: %v", err)
	}
}

func TestTheProfileFitsTheHost(t *testing.T) {
	plain := defaultProfile(Unconfined, func(string) bool { return false })
	for _, want := range []string{"@{PROC}=/proc/\n", "profile docker-default flags=(attach_disconnected,mediate_deleted) {\n", "  deny mount,\n", "peer=unconfined,\n  signal (send,receive) peer=docker-default,\n"} {
		if !strings.Contains(plain, want) {
			t.Errorf("%q is missing in %s", want, plain)
		}
	}
	if strings.Contains(plain, "include <") || strings.Contains(plain, "abi <") {
		t.Errorf("includes what is not there: %s", plain)
	}
	rich := defaultProfile("mine", func(string) bool { return true })
	for _, want := range []string{"abi <abi/3.0>,\n", "include <tunables/global>\n", "  include <abstractions/base>\n", "  signal (receive) peer=mine,\n"} {
		if !strings.Contains(rich, want) {
			t.Errorf("%q is missing in %s", want, rich)
		}
	}
}

func TestDaemonProfile(t *testing.T) {
	f, _ := fakeHost(t, "Y\n", others)
	h := look(f, "")
	for text, want := range map[string]string{"unconfined\n": Unconfined, "gantryd (enforce)\n": "gantryd", "": Unconfined} {
		if err := os.WriteFile(f.current, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := h.daemonProfile(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if err := os.Remove(f.current); err != nil {
		t.Fatal(err)
	}
	if got := h.daemonProfile(); got != Unconfined {
		t.Errorf("not readable: %q", got)
	}
}
