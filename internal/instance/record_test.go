package instance

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gantry/internal/problem"
	"gantry/internal/testenv"
)

func TestARecordedInstanceIsFoundByItsName(t *testing.T) {
	testenv.NeedRoot(t)
	want, err := Config{Name: fmt.Sprintf("t-rec-%d", os.Getpid()), DataDir: "/elsewhere/data", HTTPListen: ":8099"}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if _, known, err := Find(want.Name); known || err != nil {
		t.Fatalf("before Record: known %v, %v", known, err)
	}
	if err := want.Record(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(want.Forget(), want.Forget()); err != nil {
			t.Error(err)
		}
	}()
	got, known, err := Find(want.Name)
	if err != nil || !known {
		t.Fatalf("known %v, %v", known, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings differ (-want +got):\n%s", diff)
	}
	names, err := Names()
	if err != nil || !slices.Contains(names, want.Name) {
		t.Errorf("Names() = %v, %v", names, err)
	}
}

func TestBadSettingsAreRefused(t *testing.T) {
	for rule, c := range map[string]Config{
		"unknown part":      {Disable: []string{"kitchen"}},
		"relative data dir": {DataDir: "data"},
	} {
		if _, err := c.WithDefaults(); !errors.Is(err, problem.Invalid) {
			t.Errorf("%s: %v, want Invalid", rule, err)
		}
	}
}

func TestDisablingTheClusterDisablesItsParts(t *testing.T) {
	c := Config{Disable: []string{"cluster"}}
	for part, want := range map[string]bool{"cluster": true, "ingress": true, "cri": false} {
		if got := c.Disabled(part); got != want {
			t.Errorf("Disabled(%s) = %v, want %v", part, got, want)
		}
	}
}
