package kubelet

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestMergeKeepsWhatOthersWrite(t *testing.T) {
	current := v1.PodStatus{Conditions: []v1.PodCondition{{Type: "x", Status: "True"}, {Type: v1.PodReady, Status: "False"}}, NominatedNodeName: "n"}
	want := v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: "True"}, {Type: v1.ContainersReady, Status: "True"}, {Type: "x", Status: "False"}}}
	got := mergeStatus(&current, want)
	var text []string
	for _, c := range got.Conditions {
		text = append(text, fmt.Sprintf("%s=%s", c.Type, c.Status))
	}
	if s := strings.Join(text, " "); s != "x=True Ready=True ContainersReady=True" || got.Phase != v1.PodRunning || got.NominatedNodeName != "n" {
		t.Errorf("merged: %s, %+v", s, got)
	}
}
