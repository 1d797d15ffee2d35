package engine

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dcontainer "github.com/moby/moby/api/types/container"
)

func TestAStartThatWasNeverExecutedLeavesNoTrace(t *testing.T) {
	first, last := time.Unix(1, 0).UTC(), time.Unix(2, 0).UTC()
	for rule, before := range map[string]state{
		"the first":                   {Status: dcontainer.StateCreated},
		"a further":                   {Status: dcontainer.StateExited, StartedAt: first, FinishedAt: last, ExitCode: 3, OOMKilled: true, Error: "e"},
		"after the policy has waited": {Status: dcontainer.StateExited, StartedAt: first, FinishedAt: last, ExitCode: 1, RestartCount: 4},
	} {
		st := before
		st.start(time.Unix(3, 0).UTC())
		if st.Status != dcontainer.StateRunning || st.ExitCode != 0 || !st.FinishedAt.IsZero() {
			t.Errorf("%s start: %+v", rule, st)
		}
		st.Namespace = "/run/x"
		st.unstart()
		st.Before = nil
		if diff := cmp.Diff(before, st); diff != "" {
			t.Errorf("%s start, taken back (-want +got)\n%s", rule, diff)
		}
	}
}
