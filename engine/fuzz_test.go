package engine

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzRecord reads any bytes as a container's two files and a sandbox's one:
// they are refused, or what was read can be shown.
func FuzzRecord(f *testing.F) {
	const config = `{"Version":1,"ID":"a","Name":"n","Config":{"Cmd":["x"]},"HostConfig":{},"Mounts":[{"Type":"bind","Source":"/s","Destination":"/d"}]}`
	f.Add([]byte(config), []byte(`{"Version":1,"Status":"exited","ExitCode":3,"Health":{"Status":"healthy","Log":[null]},"Endpoints":[{}]}`))
	f.Add([]byte(config), []byte{})
	f.Add([]byte(`{"Version":1,"ID":"a","Spec":{},"Endpoints":[{"Address":"10.0.0.2/24"}]}`), []byte("null"))
	f.Add([]byte(`{"Version":2}`), []byte(`{`))
	f.Fuzz(func(t *testing.T, config, state []byte) {
		dir := filepath.Join(t.TempDir(), "a")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{configFile: config, stateFile: state} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := loadRecord(dir); err == nil {
			if c := r.snapshot(); c.ID != "a" || c.Config == nil || c.HostConfig == nil {
				t.Errorf("%q was read as %+v", config, c)
			}
			_, st := r.view()
			r.dockerState(st)
		}
		if cfg, err := readSandbox(dir); err == nil {
			s := &sandboxRecord{cfg: cfg}
			if got := s.snapshot(); got.ID != "a" {
				t.Errorf("%q was read as %+v", config, got)
			}
		}
	})
}
