//go:build ignore

// Generate writes table/ARCH.txt, the names and numbers of each architecture's
// system calls, from the sources of golang.org/x/sys/unix.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

var line = regexp.MustCompile(`(?m)^\tSYS_(\w+)\s+= (\d+)$`)

func main() {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		log.Fatal(err)
	}
	for _, arch := range []string{"amd64", "386", "arm64", "arm"} {
		source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+arch+".go"))
		if err != nil {
			log.Fatal(err)
		}
		var out bytes.Buffer
		for _, m := range line.FindAllSubmatch(source, -1) {
			fmt.Fprintf(&out, "%s %s\n", strings.ToLower(string(m[1])), m[2])
		}
		if err := os.WriteFile(filepath.Join("table", arch+".txt"), out.Bytes(), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
