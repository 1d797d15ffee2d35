package builder

import (
	"bytes"
	"fmt"
	"testing"
)

// BenchmarkBuild is the build that the engine is compared by: a base, a thousand
// files, five commands.
func BenchmarkBuild(b *testing.B) {
	dockerfile := "FROM busybox\nCOPY . /app/\n"
	for i := range 5 {
		dockerfile += fmt.Sprintf("RUN echo %d > /step%d\n", i, i)
	}
	files := []file{{name: "Dockerfile", body: dockerfile}}
	for i := range 1000 {
		files = append(files, file{name: fmt.Sprintf("d%d/f%d", i%20, i), body: fmt.Sprintf("file %d", i)})
	}
	context := archive(b, files)
	for _, cold := range []bool{true, false} {
		b.Run(map[bool]string{true: "cold", false: "cached"}[cold], func(b *testing.B) {
			t := newBench(b)
			t.busybox()
			build := func() {
				_, err := t.Builder.Build(ctx, Request{Tags: []string{"x"}, NoCache: cold, Context: bytes.NewReader(context)}, nil)
				if err != nil {
					b.Fatal(err)
				}
			}
			build()
			for b.Loop() {
				build()
			}
		})
	}
}
