package engine

import (
	"fmt"
	"testing"

	dcontainer "github.com/moby/moby/api/types/container"
)

func TestWaitForWhatIsRemovedMeanwhile(t *testing.T) {
	ready := make(chan struct{})
	close(ready)
	r := newRecord("", &config{ID: "id"})
	e := &Engine{ready: ready, records: map[string]*record{"id": r}}
	r.wake(removed, dcontainer.WaitResponse{StatusCode: 9}) // after it was found
	for _, condition := range []dcontainer.WaitCondition{
		"", dcontainer.WaitConditionNotRunning, dcontainer.WaitConditionNextExit, dcontainer.WaitConditionRemoved,
	} {
		await, err := e.Wait(t.Context(), "id", condition)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := await(t.Context()); err != nil || answer.StatusCode != 9 {
			t.Errorf("%q: %+v, %v", condition, answer, err)
		}
	}
}

func TestDepartedAreForgotten(t *testing.T) {
	var d departed
	for n := range departedLimit + 1 {
		d.add(fmt.Sprint(n), dcontainer.WaitResponse{StatusCode: int64(n)})
	}
	if _, ok := d.answer("0"); ok || len(d.ended) != departedLimit || len(d.ids) != departedLimit {
		t.Errorf("%d remembered, the oldest too: %v", len(d.ended), ok)
	}
	if answer, ok := d.answer(fmt.Sprint(departedLimit)); !ok || answer.StatusCode != departedLimit {
		t.Errorf("the newest: %+v, %v", answer, ok)
	}
}
