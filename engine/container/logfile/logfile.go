// Package logfile reads the logs that the shim writes, in Docker's json-file
// format and in Kubernetes' CRI format: across rotated files, while they are
// written, and where a crash tore the last line. The writer is in package shim.
//
// A log is the file PATH and its rotated predecessors PATH.1 (the newest), PATH.2 ...,
// of which Compress makes PATH.1.gz and so on, with the plain file's inode number
// as the gzip header's comment.
//
// Reading changes nothing. A reader that follows has an inotify descriptor and
// one goroutine, until the iteration ends.
package logfile

import (
	"context"
	"iter"
	"time"
)

// Entry is one line of a log, or one piece of a line that was too long.
type Entry struct {
	Time    time.Time
	Stream  string // "stdout" or "stderr"
	Line    []byte // valid until the next entry; a newline ends it unless Partial
	Partial bool   // the line goes on in the stream's next entry, or never ended
	Attrs   map[string]string
	At      Position
}

// Position is where an entry is in a log, through rotation and compression. The
// zero value is before all entries.
type Position struct {
	File       uint64 // inode number that the file had when the entry was written
	Start, End int64  // offsets of the entry's line in it
	Time       time.Time
}

// Options says which entries to read. The zero value with a Format reads all.
type Options struct {
	Format       string    // "json-file" or "cri"
	Follow       bool      // go on with what is written, until ctx is done, Done is closed or Until is past
	Tail         int       // of the lines that the other options let through, the last so many; 0 means all, negative none
	Since, Until time.Time // zero: no bound; both inclusive
	Stdout       bool      // neither this nor Stderr: both
	Stderr       bool

	// After leaves out what was written up to and with the entry at this
	// position. If that is no longer there, all that is there is newer. Not with Tail.
	After Position

	// Done, when closed, ends Follow at the end of what has been written: the
	// container's exit. Nil: only ctx ends it.
	Done <-chan struct{}
}

// wants says whether e is among what o asks for.
func (o *Options) wants(e *Entry) bool {
	if o.Stdout != o.Stderr && (e.Stream == "stdout") != o.Stdout {
		return false
	}
	if !o.Since.IsZero() && e.Time.Before(o.Since) {
		return false
	}
	return o.Until.IsZero() || !e.Time.After(o.Until)
}

// Read yields the entries of the log at path, oldest first. After an error it
// yields nothing more; the end of ctx is one. A log that does not exist is
// empty. A line that cannot be read, torn by a crash or not of the format, is
// skipped.
func Read(ctx context.Context, path string, o Options) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := &reader{path: path, options: o, yield: yield}
		defer r.close()
		if err := r.read(ctx); err != nil {
			yield(Entry{}, err)
		}
	}
}
