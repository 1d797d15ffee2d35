package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const smaps = `00400000-02000000 r-xp 00000000 fd:00 1 /bin/gantryd
Rss:               100 kB
Anonymous:           0 kB
02000000-03000000 r--p 01c00000 fd:00 1 /bin/gantryd
Anonymous:           8 kB
03000000-03100000 rw-p 02c00000 fd:00 1 /bin/gantryd
Anonymous:           0 kB
7f0000000000-7f0000001000 r--p 00000000 fd:00 2 /lib/other
Anonymous:           0 kB
7ffe00000000-7ffe00001000 r--p 00000000 00:00 0 [vvar]
Anonymous:           0 kB
`

func TestOnlyCleanReadOnlyPagesOfTheProgramAreDropped(t *testing.T) {
	got, err := cleanAreas(strings.NewReader(smaps), "/bin/gantryd")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]area{{0x400000, 0x2000000}}, got, cmp.AllowUnexported(area{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestThisProgramSurvivesTheLossOfItsPages(t *testing.T) {
	if err := dropProgram(); err != nil {
		t.Fatal(err)
	}
}

func FuzzCleanAreas(f *testing.F) {
	f.Add(smaps)
	f.Fuzz(func(t *testing.T, text string) {
		areas, err := cleanAreas(strings.NewReader(text), "/bin/gantryd")
		if err != nil && areas != nil {
			t.Errorf("both %v and %v", areas, err)
		}
	})
}
