package engine

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"

	"gantry/engine/container/logfile"
	"gantry/engine/container/logsink"
	"gantry/internal/problem"
)

func TestCheckLog(t *testing.T) {
	cases := map[string]struct {
		driver  string
		options map[string]string
		want    string // empty: fine
	}{
		"all of json-file": {"json-file", map[string]string{"max-size": "10m", "max-file": "3", "compress": "true", "labels": "a,b", "labels-regex": "^c",
			"env": "A", "env-regex": "^B", "tag": "{{.Name}}/{{ .ID }}", "mode": "non-blocking", "max-buffer-size": "4m"}, ""},
		"local":               {"local", map[string]string{"max-size": "10m", "max-file": "3", "compress": "false"}, ""},
		"local has no labels": {"local", map[string]string{"labels": "a"}, "unknown log opt 'labels' for log driver local"},
		"none ignores":        {"none", map[string]string{"max-size": "x"}, ""},
		"all of syslog": {"syslog", map[string]string{"labels": "a", "labels-regex": "a", "env": "A", "env-regex": "A", "tag": "{{.Name}}", "mode": "non-blocking",
			"syslog-address": "tcp+tls://[::1]:1", "syslog-facility": "local0", "syslog-format": "rfc5424micro", "syslog-tls-ca-cert": "/x", "syslog-tls-cert": "/x",
			"syslog-tls-key": "/x", "syslog-tls-skip-verify": "", "cache-max-size": "1m", "cache-max-file": "2", "cache-compress": "true", "cache-disabled": "false"}, ""},
		"all of journald":     {"journald", map[string]string{"labels": "a", "labels-regex": "a", "env": "A", "env-regex": "A", "tag": "x"}, ""},
		"journald's files":    {"journald", map[string]string{"max-size": "1m"}, "unknown log opt 'max-size' for journald log driver"},
		"syslog's options":    {"syslog", map[string]string{"syslog-tag": "x"}, "unknown log opt 'syslog-tag' for syslog log driver"},
		"an address":          {"syslog", map[string]string{"syslog-address": "host:1"}, "syslog-address should be in form proto://address, got host:1"},
		"a facility":          {"syslog", map[string]string{"syslog-facility": "x"}, "invalid syslog facility"},
		"a format":            {"syslog", map[string]string{"syslog-format": "x"}, "Invalid syslog format"},
		"another driver":      {"gelf", nil, "logger: no log driver named 'gelf' is registered"},
		"another option":      {"json-file", map[string]string{"max-sise": "1"}, "unknown log opt 'max-sise' for json-file log driver"},
		"mode":                {"json-file", map[string]string{"mode": "x"}, "logger: logging mode not supported: x"},
		"a buffer that waits": {"json-file", map[string]string{"max-buffer-size": "1m"}, "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		"size":                {"json-file", map[string]string{"max-size": "0"}, "max-size must be a positive number"},
		"no file":             {"json-file", map[string]string{"max-file": "0"}, "max-file cannot be less than 1"},
		"one file":            {"json-file", map[string]string{"max-file": "1", "compress": "true"}, "compress cannot be true when max-file is less than 2 or max-size is not set"},
		"pattern":             {"json-file", map[string]string{"env-regex": "("}, "missing closing )"},
		"tag's field":         {"json-file", map[string]string{"tag": "{{.Nome}}"}, "can't evaluate field Nome"},
		"tag's function":      {"json-file", map[string]string{"tag": "{{json .}}"}, "only fields"},
	}
	for name, c := range cases {
		err := CheckLog(dcontainer.LogConfig{Type: c.driver, Config: c.options})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, problem.Invalid)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestLogOfAContainer(t *testing.T) {
	cfg := &config{
		ID: strings.Repeat("ab", 32), Name: "web", Image: digest.FromString("x"), LogFormat: "json-file", LogPath: "/log",
		Config: &dcontainer.Config{Image: "busybox", Labels: map[string]string{"a": "1", "app.x": "2", "z": "3"}, Env: []string{"A=4", "BB=5", "C=6"}},
		HostConfig: &dcontainer.HostConfig{LogConfig: dcontainer.LogConfig{Type: "json-file", Config: map[string]string{
			"labels": "a,missing", "labels-regex": "^app", "env": "A", "env-regex": "^B", "tag": "{{.ImageName}}/{{.Name}}/{{.ID}}",
			"max-size": "1k", "max-file": "7", "mode": "non-blocking",
		}}},
	}
	got, err := logOf(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"A":"4","BB":"5","a":"1","app.x":"2","tag":"busybox/web/abababababab"}`; got.Attrs != want {
		t.Errorf("attributes are %s, want %s", got.Attrs, want)
	}
	if got.MaxBytes != 1000 || got.MaxFiles != 7 || got.Buffer != 1<<20 || !cfg.compresses() {
		t.Errorf("log is %+v", got)
	}
	cfg.HostConfig.LogConfig.Config = nil
	if got, err = logOf(cfg); err != nil || got.MaxBytes*int64(got.MaxFiles) != 100<<20 || got.Buffer != 0 || !cfg.compresses() {
		t.Errorf("by default: %+v, %v", got, err)
	}
}

func TestDefaultsOfTheLogAreOfItsDriverAlone(t *testing.T) {
	e := &Engine{cfg: Config{LogDriver: "local", LogOptions: map[string]string{"max-size": "1m", "max-file": "9"}}}
	got := e.fillLog(dcontainer.LogConfig{Config: map[string]string{"max-size": "2m"}})
	if got.Type != "local" || got.Config["max-size"] != "2m" || got.Config["max-file"] != "9" {
		t.Errorf("filled %+v", got)
	}
	if got := e.fillLog(dcontainer.LogConfig{Type: "json-file"}); len(got.Config) != 0 {
		t.Errorf("of another driver: %+v", got)
	}
}

func TestJournalFields(t *testing.T) {
	cfg := &config{
		ID: strings.Repeat("ab", 32), Name: "web",
		Config: &dcontainer.Config{Image: "busybox", Labels: map[string]string{"com.x": "1", "_": "2"}, Env: []string{"A=3"}},
		HostConfig: &dcontainer.HostConfig{LogConfig: dcontainer.LogConfig{Type: "journald", Config: map[string]string{
			"labels": "com.x,_", "env": "A", "tag": "t",
		}}},
	}
	got, err := journalFields(cfg, "t")
	want := map[string]string{
		"CONTAINER_ID": "abababababab", "CONTAINER_ID_FULL": cfg.ID, "CONTAINER_NAME": "web", "CONTAINER_TAG": "t",
		"IMAGE_NAME": "busybox", "SYSLOG_IDENTIFIER": "t", "COM_X": "1", "A": "3",
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
}

// The pieces of a line are numbered, each stream's by themselves, also by an
// engine that goes on with what another has sent.
func TestPiecesOfALine(t *testing.T) {
	long := []byte(strings.Repeat("x", 16<<10))
	at := sent{Version: recordVersion}
	var ids []string
	for i, c := range []struct {
		stream  string
		line    []byte
		partial bool
		want    logsink.Piece // but for the ID
	}{
		{"stdout", []byte("a\n"), false, logsink.Piece{}},
		{"stdout", long, true, logsink.Piece{Ordinal: 1}},
		{"stderr", []byte("b\n"), false, logsink.Piece{}},
		{"stdout", long, true, logsink.Piece{Ordinal: 2}},
		{"stdout", []byte("\n"), false, logsink.Piece{Ordinal: 3, Last: true}},
		{"stdout", []byte("the end"), true, logsink.Piece{}},
	} {
		entry := logfile.Entry{Stream: c.stream, Line: c.line, Partial: c.partial}
		m := at.message(&entry)
		at.passed(&entry, m.Piece)
		if want := strings.TrimSuffix(string(c.line), "\n"); string(m.Line) != want {
			t.Errorf("entry %d is sent as %.50q", i, m.Line)
		}
		if m.Piece.ID != "" {
			ids = append(ids, m.Piece.ID)
		}
		if m.Piece.ID = ""; m.Piece != c.want {
			t.Errorf("entry %d is %+v, want %+v", i, m.Piece, c.want)
		}
		data, err := json.Marshal(at)
		if err != nil {
			t.Fatal(err)
		}
		if at, err = decodeSent(data); err != nil {
			t.Fatal(err)
		}
	}
	if len(ids) != 3 || ids[0] != ids[1] || ids[1] != ids[2] {
		t.Errorf("the pieces are of %q", ids)
	}
	for _, data := range []string{"", "{", `{"Version":7}`} {
		if at, err := decodeSent([]byte(data)); err == nil {
			t.Errorf("%q is %+v", data, at)
		}
	}
}
