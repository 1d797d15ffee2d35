package logfile

import (
	"fmt"
	"io"
)

// seekAfter moves behind the entry at p. Nothing happens if it is not there: a
// file that has the number of one that is gone has other lines.
func (r *reader) seekAfter(p Position) error {
	if p.Start < 0 || p.End <= p.Start || p.End-p.Start > maxLine {
		return nil
	}
	for i, f := range r.files {
		if f.inode != p.File {
			continue
		}
		if err := f.inflate(); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		line := make([]byte, p.End-p.Start)
		if _, err := f.ReadAt(line, p.Start); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if e, ok := parse(r.options.Format, line); !ok || !e.Time.Equal(p.Time) {
			return nil
		}
		closeAll(r.files[:i])
		r.files, r.offset = r.files[i:], p.End
		return nil
	}
	return nil
}
