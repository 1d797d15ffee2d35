package shim

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"

	"gantry/engine/container/wire"
)

func itoa(n int) string { return strconv.Itoa(n) }

func writeFile(path, content string) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = syscall.Write(fd, []byte(content))
	syscall.Close(fd)
	return err
}

// writeExit writes the exit record: visible whole or not at all to an engine
// that looks at any moment. Power loss ends the container's life anyway, so it
// is not waited for here.
func writeExit(path string, x *wire.Exit, at time.Time) {
	if path == "" {
		return
	}
	b := append([]byte(`{"version":1,"code":`), strconv.Itoa(x.Code)...)
	b = append(b, `,"oomKilled":`...)
	b = strconv.AppendBool(b, x.OOM)
	b = append(b, `,"at":"`...)
	b = at.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, "\"}\n"...)
	temporary := path + ".tmp"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return // the directory was removed: nobody asks any more
	}
	_, err = f.Write(b)
	if f.Close() == nil && err == nil {
		_ = os.Rename(temporary, path)
	}
}

// oomKilled looks for a kill in memory.events (v2) or memory.oom_control (v1).
func oomKilled(path string) bool {
	if path == "" {
		return false
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for len(data) > 0 {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line, data = data[:i], data[i+1:]
		} else {
			data = nil
		}
		if n, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			return len(n) > 0 && n[0] != '0'
		}
	}
	return false
}

// killAll kills what a container without a pid namespace of its own left in its
// cgroup. New processes may appear while the list is walked, so it is repeated
// until nothing new is found; what forks faster is the engine's to freeze.
func killAll(procs string) {
	for range 100 {
		data, err := os.ReadFile(procs)
		if err != nil || len(data) == 0 {
			return
		}
		for len(data) > 0 {
			i := bytes.IndexByte(data, '\n')
			if i < 0 {
				return
			}
			if pid, err := strconv.Atoi(string(data[:i])); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL) // gone in between
			}
			data = data[i+1:]
		}
	}
}
