package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/internal/instance"
)

func TestCheckOfAStoppedServerNamesWhatIsTorn(t *testing.T) {
	cfg, err := instance.Config{Name: "check", DataDir: t.TempDir(), RunDir: t.TempDir()}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if found, err := checkStopped(ctx, cfg); err != nil || len(found) != 0 {
		t.Errorf("of an empty directory: %v, %v", found, err)
	}
	for name, content := range map[string]string{
		"containers/torn/config.json": "{", "containers/half/upper/file": "", "networks/x.json": "{}",
		"sandboxes/torn/config.json": "", "networks/.tmp-x.json-1": "{",
	} {
		path := filepath.Join(cfg.DataDir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := checkStopped(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, v := range found {
		said = append(said, v.Part+": "+v.Problem)
	}
	text := strings.Join(said, "\n")
	for _, want := range []string{"container torn", "sandbox torn", "x.json does not describe a network"} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing is said of %q in\n%s", want, text)
		}
	}
	if len(found) != 3 {
		t.Errorf("found\n%s", text)
	}
}
