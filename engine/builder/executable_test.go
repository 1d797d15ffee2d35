package builder

import (
	"strings"
	"testing"

	"gantry/engine/image"
)

// TestProgramsForAnotherCPU copies a binary for another CPU into an image that
// does not say so.
func TestProgramsForAnotherCPU(t *testing.T) {
	b := newBench(t)
	b.busybox()
	foreign := file{name: "app", mode: 0o755, body: "\x7fELF\x02\x02\x01" + strings.Repeat("\x00", 9) + "\x00\x02\x00\x16" + strings.Repeat("\x00", 4096)}
	host := image.FormatPlatform(image.Host())
	for range 2 { // the second time all is cached
		out, err := b.build(Request{}, "FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n", foreign)
		if want := " says that it is for " + host + ", but its /app is for linux/s390x"; err != nil || !strings.Contains(out, want) {
			t.Errorf("build: %v\n%s\nwant %q", err, out, want)
		}
	}
	out, err := b.build(Request{}, "FROM busybox\nCOPY app /app\nRUN [\"/app\", \"now\"]\n", foreign)
	if want := "image busybox: /app is for linux/s390x, this host is " + host; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("RUN: %v\n%s\nwant %q", err, out, want)
	}
	out, err = b.build(Request{Platform: "linux/s390x"}, "FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n", foreign)
	if err != nil || strings.Contains(out, "Warning") {
		t.Errorf("an image that says what it is for: %v\n%s", err, out)
	}
}
