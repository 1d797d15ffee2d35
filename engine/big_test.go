package engine_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"gantry/engine"
)

func TestMuchInputAndOutput(t *testing.T) {
	b := newBench(t)
	big := strings.Repeat("0123456789abcdef", 256<<10) // 4 MiB: more than any buffer on the way
	for _, format := range []string{"json-file", "none"} {
		id := b.create("cat; echo end", func(r *engine.CreateRequest) {
			r.Config.OpenStdin, r.Config.StdinOnce, r.LogFormat = true, true, format
		})
		claim, err := b.Engine.Attach(b.ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		var done sync.WaitGroup
		var attachErr error
		done.Go(func() {
			attachErr = claim.Run(b.ctx, engine.Streams{Stdin: strings.NewReader(big), Stdout: &out})
		})
		b.start(id)
		done.Wait()
		if attachErr != nil || out.String() != big+"end\n" {
			t.Errorf("%s: %d bytes of %d, %v", format, out.Len(), len(big)+4, attachErr)
		}
	}
}
