package logfile

import (
	"bytes"
	"encoding/json"
	"time"
)

// parse reads one line of a log, with its newline or without; false if it is
// not one of the format.
func parse(format string, line []byte) (Entry, bool) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	if format == "cri" {
		return parseCRI(line)
	}
	return parseJSON(line)
}

// parseJSON reads an object of Docker's json-file driver.
func parseJSON(line []byte) (Entry, bool) {
	var object struct {
		Log    string            `json:"log"`
		Stream string            `json:"stream"`
		Attrs  map[string]string `json:"attrs"`
		Time   time.Time         `json:"time"`
	}
	if len(line) == 0 || line[0] != '{' || json.Unmarshal(line, &object) != nil {
		return Entry{}, false
	}
	if object.Log == "" || object.Stream != "stdout" && object.Stream != "stderr" || object.Time.IsZero() {
		return Entry{}, false
	}
	e := Entry{Time: object.Time, Stream: object.Stream, Line: []byte(object.Log), Attrs: object.Attrs}
	e.Partial = e.Line[len(e.Line)-1] != '\n'
	return e, true
}

// parseCRI reads "TIME STREAM TAGS LINE"; of the tags, divided by colons, the
// first is F for a whole line or P for a piece of one.
func parseCRI(line []byte) (Entry, bool) {
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return Entry{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil || at.IsZero() {
		return Entry{}, false
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok || string(stream) != "stdout" && string(stream) != "stderr" {
		return Entry{}, false
	}
	tags, text, ok := bytes.Cut(rest, []byte{' '})
	tag, _, _ := bytes.Cut(tags, []byte{':'})
	if !ok || string(tag) != "F" && string(tag) != "P" {
		return Entry{}, false
	}
	e := Entry{Time: at, Stream: string(stream), Partial: string(tag) == "P"}
	if e.Partial {
		if len(text) == 0 {
			return Entry{}, false
		}
		e.Line = text
		return e, true
	}
	// A copy: the newline may be beyond what the caller gave.
	e.Line = append(append(make([]byte, 0, len(text)+1), text...), '\n')
	return e, true
}
