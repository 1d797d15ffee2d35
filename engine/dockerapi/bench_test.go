package dockerapi_test

import "testing"

// BenchmarkRun runs a container through the stock client.
func BenchmarkRun(b *testing.B) {
	d := newDaemon(b)
	for _, mode := range []string{"host", "none", "bridge"} {
		b.Run(mode, func(b *testing.B) {
			for b.Loop() {
				d.do("run", "--rm", "--network", mode, "busybox", "true")
			}
		})
	}
	b.Run("version", func(b *testing.B) {
		for b.Loop() {
			d.do("version")
		}
	})
}
