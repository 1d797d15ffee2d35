package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"gantry/internal/problem"
)

// logger writes messages in the forms that runc's callers read: they look for
// the last line of the log file to tell why a command failed.
type logger struct {
	file *os.File // nil: stderr
	json bool
}

func (l *logger) open(file, format string) error {
	switch format {
	case "text", "":
	case "json":
		l.json = true
	default:
		return problem.New(problem.Invalid, "invalid log-format: %s", format)
	}
	if file == "" {
		return nil
	}
	var err error
	l.file, err = os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	return err
}

func (l *logger) write(level, message string) {
	out := l.file
	if out == nil {
		out = os.Stderr
	}
	at := time.Now().Format(time.RFC3339)
	if !l.json {
		fmt.Fprintf(out, "time=%q level=%s msg=%q\n", at, level, message)
		return
	}
	line, err := json.Marshal(struct {
		Level   string `json:"level"`
		Message string `json:"msg"`
		Time    string `json:"time"`
	}{level, message, at})
	if err != nil {
		panic("a message without JSON: " + err.Error())
	}
	fmt.Fprintf(out, "%s\n", line)
}

func (l *logger) warn(message string) { l.write("warning", message) }

// fatal tells why the command fails: in the log, and to who looks at stderr.
func (l *logger) fatal(message string) {
	l.write("error", message)
	if l.file != nil {
		fmt.Fprintln(os.Stderr, message)
	}
}
