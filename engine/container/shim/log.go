package shim

import (
	"bytes"
	"os"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"gantry/engine/container/wire"
)

// maxLine is where a line is cut into pieces; Docker's and CRI's limit alike.
const maxLine = 16 << 10

// lostMark is the entry that stands for output that could not be written.
const lostMark = "[gantry: output is missing here: the log could not be written]\n"

const (
	defaultMaxBytes = 20 << 20
	defaultMaxFiles = 5
)

// logWriter writes what a container prints to its log, line by line, and
// rotates it. What cannot be written, on a full disk, is dropped: a container
// does not stop because nobody keeps its log.
type logWriter struct {
	cri      bool
	attrs    string // of each json-file entry, as it is written
	path     string
	maxBytes int64
	maxFiles int

	mu   sync.Mutex
	file *os.File // nil: no log
	size int64
	torn bool      // the file does not end in a newline
	rest [2][]byte // the begun line of stdout and stderr
	out  []byte    // reused
	lost bool      // a write failed: entries are missing

	queue *logQueue // nil: output waits for the log
}

func newLog(c *wire.Create) (*logWriter, error) {
	w := &logWriter{cri: c.LogFormat == "cri", path: c.LogPath, maxBytes: c.MaxBytes, maxFiles: c.MaxFiles}
	if w.maxBytes == 0 {
		w.maxBytes = defaultMaxBytes
	}
	if w.maxFiles == 0 {
		w.maxFiles = defaultMaxFiles
	}
	if c.LogFormat == "none" || c.LogFormat == "" {
		return w, nil
	}
	if c.LogAttrs != "" {
		w.attrs = `"attrs":` + c.LogAttrs + `,`
	}
	if err := w.open(); err != nil {
		return w, err
	}
	if c.LogBuffer > 0 {
		w.queue = newLogQueue(w, int(c.LogBuffer))
	}
	return w, nil
}

func (w *logWriter) open() error {
	f, err := os.OpenFile(w.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.file, w.size, w.torn = f, info.Size(), false
	last := [1]byte{'\n'}
	if w.size > 0 {
		_, err = f.ReadAt(last[:], w.size-1)
	}
	w.torn = last[0] != '\n'
	return err
}

// write logs what was read from a stream.
func (w *logWriter) write(stream wire.Stream, data []byte) {
	now := time.Now().UTC()
	if w.queue != nil {
		w.queue.add(now, stream, data)
		return
	}
	w.record(now, stream, data)
}

func (w *logWriter) record(now time.Time, stream wire.Stream, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return
	}
	w.out = w.out[:0]
	if w.lost {
		w.entry(now, wire.Stderr, []byte(lostMark), true)
		w.lost = false // unless this is lost too
	}
	rest := &w.rest[stream-1]
	for len(data) > 0 {
		n := bytes.IndexByte(data, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(data)
		}
		switch {
		case len(*rest)+n > maxLine:
			n = min(n, maxLine-len(*rest))
			*rest = append(*rest, data[:n]...)
			cut := wholeRunes(*rest)
			w.entry(now, stream, (*rest)[:cut], false)
			*rest = append((*rest)[:0], (*rest)[cut:]...)
		case !whole:
			*rest = append(*rest, data...)
		case len(*rest) > 0:
			*rest = append(*rest, data[:n]...)
			w.entry(now, stream, *rest, true)
			*rest = (*rest)[:0]
		default:
			w.entry(now, stream, data[:n], true)
		}
		data = data[n:]
	}
	w.flush()
}

// wholeRunes is the length of b without a character that its end cuts off.
func wholeRunes(b []byte) int {
	for i := 1; i < utf8.UTFMax && i < len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}

// entry appends one entry to out. A whole one ends in a newline.
func (w *logWriter) entry(now time.Time, stream wire.Stream, line []byte, whole bool) {
	name := "stdout"
	if stream == wire.Stderr {
		name = "stderr"
	}
	if w.cri {
		w.out = now.AppendFormat(w.out, time.RFC3339Nano)
		w.out = append(w.out, ' ')
		w.out = append(w.out, name...)
		if whole {
			w.out = append(append(w.out, " F "...), line...)
		} else {
			w.out = append(append(append(w.out, " P "...), line...), '\n')
		}
		return
	}
	w.out = append(w.out, `{"log":"`...)
	w.out = appendEscaped(w.out, line)
	w.out = append(w.out, `","stream":"`...)
	w.out = append(w.out, name...)
	w.out = append(w.out, `",`...)
	w.out = append(w.out, w.attrs...)
	w.out = append(w.out, `"time":"`...)
	w.out = now.AppendFormat(w.out, time.RFC3339Nano)
	w.out = append(w.out, "\"}\n"...)
}

// appendEscaped appends s as the inside of a JSON string.
func appendEscaped(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, n := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, `\ufffd`...)
			} else {
				b = append(b, s[i:i+n]...)
			}
			i += n
			continue
		}
		i++
	}
	return b
}

// flush writes out to the file, rotating where it would grow too long: a file is
// longer than it may be only by its first entry.
func (w *logWriter) flush() {
	for rest := w.out; len(rest) > 0; {
		n := w.fits(rest)
		if n == 0 {
			before := w.file
			if w.rotate(); w.file == before && w.size > 0 {
				n = len(rest) // it could not: better a long log than none
			} else {
				n = max(w.fits(rest), bytes.IndexByte(rest, '\n')+1)
			}
		}
		w.append(rest[:n])
		rest = rest[n:]
	}
	if cap(w.out) > 4*maxLine {
		w.out = nil
	}
}

// fits returns the length of the entries that the file has room for.
func (w *logWriter) fits(entries []byte) int {
	room := w.maxBytes - w.size
	if w.maxBytes <= 0 || room >= int64(len(entries)) {
		return len(entries)
	}
	n := bytes.LastIndexByte(entries[:max(room, 0)], '\n') + 1
	if n == 0 && w.size == 0 {
		n = bytes.IndexByte(entries, '\n') + 1
	}
	return n
}

func (w *logWriter) append(entries []byte) {
	if w.torn {
		// A reader skips the torn line; it must not swallow this one too.
		if _, err := w.file.Write([]byte{'\n'}); err != nil {
			w.lost = true
			return
		}
		w.size++
		w.torn = false
	}
	n, err := w.file.Write(entries)
	w.size += int64(n)
	w.torn = err != nil && n > 0
	w.lost = w.lost || err != nil
}

// reopen opens the log again by name.
func (w *logWriter) reopen() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.file
	if old == nil {
		return nil
	}
	if err := w.open(); err != nil {
		w.file = old
		return err
	}
	return old.Close()
}

// close logs lines that never ended.
func (w *logWriter) close() {
	if w.queue != nil {
		w.queue.end()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return
	}
	now := time.Now().UTC()
	w.out = w.out[:0]
	for i, rest := range w.rest {
		if len(rest) > 0 {
			w.entry(now, wire.Stream(i+1), rest, false)
		}
	}
	w.flush()
	w.file.Close()
	w.file = nil
}
