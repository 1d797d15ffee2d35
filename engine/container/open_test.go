package container

import "testing"

func TestRelatedGroupsAreKept(t *testing.T) {
	keep := []string{"/g/pod/a"}
	for name, want := range map[string]bool{"/g/pod": true, "/g/pod/a": true, "/g/pod/a/inner": true, "/g/pod/b": false, "/g/pod/ab": false, "/g/po": false} {
		if got := related(name, keep); got != want {
			t.Errorf("related(%s) = %v", name, got)
		}
	}
}
