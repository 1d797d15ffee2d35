package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"gantry/internal/atomicfile"
)

// eventsKept is how many past events "since" can see. The reference keeps 256,
// in memory; a subscriber which falls behind by more than this loses the oldest.
const eventsKept = 1024

// eventLog keeps the latest events, in memory and in a file, and wakes those who
// follow them. The file has one JSON object a line, is written through to the
// kernel at each event, and is made anew when it has grown to a multiple.
type eventLog struct {
	disk    sync.Mutex // orders events; before mu
	path    string     // empty: not opened
	file    *os.File   // nil: events are in memory alone
	lines   int        // in file
	failing bool       // the last write failed
	log     *slog.Logger

	mu      sync.Mutex
	events  []Event       // the latest eventsKept, oldest first
	next    int64         // sequence number of the event to come
	changed chan struct{} // closed, and replaced, by each event
}

func newEventLog(log *slog.Logger) *eventLog {
	return &eventLog{log: log, changed: make(chan struct{})}
}

// open reads the events of earlier processes and begins to write. Called once,
// before anybody follows.
func (l *eventLog) open(path string) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read events: %w", err)
	}
	earlier := parseEvents(data)
	if len(earlier) > eventsKept {
		earlier = earlier[len(earlier)-eventsKept:]
	}
	l.mu.Lock()
	l.events = append(earlier, l.events...)
	l.next += int64(len(earlier))
	l.mu.Unlock()
	l.path = path
	l.rewrite()
	return nil
}

// parseEvents reads lines; one that a crash or a full disk tore is left out.
func parseEvents(data []byte) []Event {
	var events []Event
	for line := range bytes.Lines(data) {
		var ev Event
		if json.Unmarshal(line, &ev) == nil && ev.Type != "" && ev.TimeNano != 0 {
			events = append(events, ev)
		}
	}
	return events
}

func (l *eventLog) add(ev Event) {
	l.disk.Lock()
	defer l.disk.Unlock()
	l.remember(ev)
	if l.path == "" {
		return
	}
	if l.lines >= 4*eventsKept || l.file == nil {
		l.rewrite()
		return
	}
	line, err := json.Marshal(ev)
	if err == nil {
		if l.failing {
			line = append([]byte{'\n'}, line...) // what was torn stays by itself
		}
		_, err = l.file.Write(append(line, '\n'))
	}
	l.lines++
	l.report(err)
}

func (l *eventLog) remember(ev Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) >= eventsKept {
		l.events = append(l.events[:0:0], l.events[len(l.events)-eventsKept*3/4:]...)
	}
	l.events = append(l.events, ev)
	l.next++
	close(l.changed)
	l.changed = make(chan struct{})
}

// rewrite makes the file what is in memory. Where it cannot, events are in
// memory alone until it can.
func (l *eventLog) rewrite() {
	l.mu.Lock()
	kept := l.events[:len(l.events):len(l.events)]
	l.mu.Unlock()
	var data bytes.Buffer
	out := json.NewEncoder(&data)
	var err error
	for _, ev := range kept {
		err = errors.Join(err, out.Encode(ev))
	}
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
		l.file = nil
	}
	if err == nil {
		err = atomicfile.Replace(l.path, data.Bytes(), 0o600)
	}
	if err == nil {
		l.file, err = os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
	}
	l.lines = len(kept)
	l.report(err)
}

// report says once that events cannot be written, and once that they can.
func (l *eventLog) report(err error) {
	switch {
	case err != nil && !l.failing:
		l.log.Error("events are not written", "path", l.path, "err", err)
	case err == nil && l.failing:
		l.log.Info("events are written again", "path", l.path)
	}
	l.failing = err != nil
}

func (l *eventLog) close() error {
	l.disk.Lock()
	defer l.disk.Unlock()
	l.path = ""
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// from returns the events whose sequence number is seq or more, the number
// after them, and what is closed when there are others.
func (l *eventLog) from(seq int64) ([]Event, int64, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.next - int64(len(l.events))
	return l.events[max(seq-first, 0):len(l.events):len(l.events)], l.next, l.changed
}

func (l *eventLog) position() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}
