package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// steps shows work step by step: on a terminal one live line for the step that
// is being done, elsewhere one plain line for each step that has ended.
// It implements push.Reporter.
type steps struct {
	out      *os.File
	terminal bool

	mu     sync.Mutex
	name   string
	begun  time.Time
	detail string
	output []byte // of a tool, shown if the step fails
	stop   chan struct{}
	gone   chan struct{} // closed when the animation has ended
}

func newSteps(out *os.File) *steps { return &steps{out: out, terminal: isTerminal(out)} }

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("TERM") != "dumb"
}

func colourful(f *os.File) bool { return isTerminal(f) && os.Getenv("NO_COLOR") == "" }

// frameInterval is how often the live line is drawn; fast enough to look alive.
const frameInterval = 80 * time.Millisecond

// Begin starts a step.
func (s *steps) Begin(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name, s.begun, s.detail, s.output = name, time.Now(), "", nil
	if !s.terminal {
		return
	}
	s.stop, s.gone = make(chan struct{}), make(chan struct{})
	go s.animate(s.stop, s.gone)
}

// Detail tells how far the step is.
func (s *steps) Detail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detail = fmt.Sprintf(format, args...)
}

// maxOutput is how much of a tool's output a failing step shows.
const maxOutput = 8 << 10

// Output keeps the end of a tool's output.
func (s *steps) Output(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.output = append(s.output, text...)
	if extra := len(s.output) - maxOutput; extra > 0 {
		s.output = append(s.output[:0], s.output[extra:]...)
	}
}

// Done ends the step well.
func (s *steps) Done(format string, args ...any) {
	s.end("✓", fmt.Sprintf(format, args...))
}

// Fail ends the step badly and shows the output that it had.
func (s *steps) Fail() {
	s.mu.Lock()
	detail, output := s.detail, s.output
	s.mu.Unlock()
	s.end("✗", strings.TrimSpace("failed "+detail))
	if len(output) > 0 {
		fmt.Fprintf(s.out, "%s\n", strings.TrimRight(string(output), "\n"))
	}
}

func (s *steps) end(mark, text string) {
	s.mu.Lock()
	stop, gone, name, took := s.stop, s.gone, s.name, time.Since(s.begun)
	s.stop, s.gone = nil, nil
	s.mu.Unlock()
	if stop != nil {
		close(stop)
		<-gone
	}
	if s.terminal {
		fmt.Fprintf(s.out, "\r\x1b[K%s %-14s %s %s\n", mark, name, text, dim(seconds(took)))
		return
	}
	fmt.Fprintf(s.out, "%-14s %s (%s)\n", name, text, seconds(took))
}

func (s *steps) animate(stop, gone chan struct{}) {
	defer close(gone)
	frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	tick := time.NewTicker(frameInterval)
	defer tick.Stop()
	for i := 0; ; i++ {
		s.mu.Lock()
		line := fmt.Sprintf("%c %-14s %s %s", frames[i%len(frames)], s.name, s.detail, seconds(time.Since(s.begun)))
		s.mu.Unlock()
		fmt.Fprintf(s.out, "\r\x1b[K%s", shorten(line, width(s.out)))
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

func width(f *os.File) int {
	const usual = 80
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return usual
	}
	return int(size.Col)
}

// shorten cuts a line so that it does not wrap: a live line must stay one.
func shorten(line string, columns int) string {
	runes := []rune(line)
	if len(runes) < columns {
		return line
	}
	return string(runes[:max(columns-1, 0)])
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }

func dim(text string) string { return "\x1b[2m" + text + "\x1b[0m" }
