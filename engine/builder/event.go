package builder

import "time"

// Kind says what an Event tells.
type Kind int

// The kinds of events. A step's events come in this order: StepStarted, then
// any of Cached, Running, Output, Warning, then StepDone or StepFailed.
const (
	StepStarted Kind = iota // Text is the instruction
	Cached                  // the step's result was in the cache
	Running                 // Container runs the step
	Output                  // Data is output of the step; Stderr says of which stream
	Removed                 // Container is gone
	Note                    // Text is a line about the step ("# Executing 2 build triggers")
	StepDone                // Image is the result so far
	StepFailed              // Err is why
	Warning                 // Text is a warning about the Dockerfile
	Context                 // Bytes of the context have arrived
	Built                   // Image is the result of the build
	Tagged                  // Text is the name that the result got
)

// Event is one piece of a build's progress. Events of different stages are
// interleaved; Step tells them apart.
type Event struct {
	Kind      Kind
	Time      time.Time
	Step      int    // from 1; 0 when the event is about the whole build
	Steps     int    // how many there are
	Stage     string // name or number of the step's stage
	Text      string
	Data      []byte // valid only during the call
	Stderr    bool
	Image     string // image ID, "sha256:..."
	Container string // container ID
	Bytes     int64
	Err       error
}
