package image

import (
	"bytes"
	"strings"
	"testing"
)

// foreignELF is the beginning of a binary for s390x.
var foreignELF = "\x7fELF\x02\x02\x01" + strings.Repeat("\x00", 9) + "\x00\x02\x00\x16" + strings.Repeat("\x00", 40)

func TestMisfitNamesBothCPUs(t *testing.T) {
	s := open(t)
	layer := archive(t,
		entry{name: "app", body: foreignELF, mode: 0o755},
		entry{name: "usr/bin/app2", body: foreignELF, mode: 0o755},
		entry{name: "script", body: "#!/usr/bin/app2 -x\n", mode: 0o755},
		entry{name: "text", body: "no program", mode: 0o755})
	for name, c := range map[string]struct {
		architecture    string
		entrypoint, cmd []string
		want            string // the file that is named; empty: nothing is
	}{
		"the command":                       {Host().Architecture, nil, []string{"/app"}, "/app"},
		"the entrypoint, on PATH":           {Host().Architecture, []string{"app2"}, []string{"/text"}, "/usr/bin/app2"},
		"a script's interpreter":            {Host().Architecture, []string{"/script"}, nil, "/usr/bin/app2"},
		"no binary":                         {Host().Architecture, []string{"/text"}, nil, ""},
		"not there":                         {Host().Architecture, []string{"/none"}, nil, ""},
		"no command and no shell":           {Host().Architecture, nil, nil, ""},
		"an image that says what it is for": {"s390x", nil, []string{"/app"}, ""},
		"an image that says nothing":        {"", nil, []string{"/app"}, ""},
		"another foreign one":               {"riscv64", nil, []string{"/app"}, "/app"},
	} {
		t.Run(name, func(t *testing.T) {
			var o ImportOptions
			o.Config.OS, o.Config.Architecture = "linux", c.architecture
			o.Config.Config.Entrypoint, o.Config.Config.Cmd = c.entrypoint, c.cmd
			id, err := s.Import(ctx, bytes.NewReader(layer), o)
			if err != nil {
				t.Fatal(err)
			}
			img, err := s.Get(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			img.Config.Architecture = c.architecture // Import fills it in
			got := s.Misfit(img, "web:1")
			want := ""
			if c.want != "" {
				want = "image web:1 says that it is for linux/" + c.architecture + ", but its " + c.want + " is for linux/s390x"
			}
			if got != want {
				t.Errorf("Misfit: %q; want %q", got, want)
			}
		})
	}
}

func TestLoadSaysWhatDoesNotFit(t *testing.T) {
	s := open(t)
	plain := archive(t, entry{name: "bin/true", body: foreignELF, mode: 0o755}) // the command of configOf
	var said []string
	_, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, []string{"web"}, [][]byte{plain}, [][]byte{plain})), func(e Event) { said = append(said, e.Stream) })
	if all := strings.Join(said, ""); err != nil || !strings.Contains(all, "/bin/true is for linux/s390x") || !strings.HasPrefix(said[len(said)-1], "WARNING: image sha256:") {
		t.Errorf("Load: %v; said %q", err, all)
	}
}
