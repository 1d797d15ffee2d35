package engine

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	devents "github.com/moby/moby/api/types/events"
)

func numbered(i int) Event {
	return Event{Type: devents.ContainerEventType, Action: "start", Actor: devents.Actor{ID: fmt.Sprint(i)}, Time: 1, TimeNano: int64(i) + 1}
}

func openEvents(t *testing.T, path string) *eventLog {
	t.Helper()
	l := newEventLog(slog.New(slog.DiscardHandler))
	if err := l.open(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l
}

func TestEventsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	const all = 6 * eventsKept
	for begin := 0; begin < all; begin += all / 6 {
		l := openEvents(t, path) // the one before was killed
		for i := range all / 6 {
			l.add(numbered(begin + i))
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"Type":"torn`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l := openEvents(t, path)
	l.add(numbered(all))
	list, next, _ := openEvents(t, path).from(0)
	if len(list) < eventsKept*3/4 || len(list) > eventsKept+1 || next != int64(len(list)) {
		t.Fatalf("%d events, next %d", len(list), next)
	}
	for i, ev := range list {
		if want := fmt.Sprint(all - len(list) + 1 + i); ev.Actor.ID != want {
			t.Fatalf("event %d is %s, want %s", i, ev.Actor.ID, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 8*eventsKept*200 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
}

func TestEventsGoOnWhenTheyCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	l := openEvents(t, path)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	file := l.file
	l.file = full
	l.add(numbered(0))
	l.file = file
	l.add(numbered(1))
	if list, _, _ := l.from(0); len(list) != 2 {
		t.Errorf("in memory: %v", list)
	}
	if list, _, _ := openEvents(t, path).from(0); len(list) != 1 || list[0].Actor.ID != "1" {
		t.Errorf("in the file: %v", list)
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add([]byte(`{"Type":"container","Action":"die","Actor":{"ID":"x","Attributes":{"a":"b"}},"time":1,"timeNano":2}` + "\n{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, ev := range parseEvents(data) {
			if ev.Type == "" || ev.TimeNano == 0 {
				t.Errorf("%q gave %+v", data, ev)
			}
		}
	})
}
