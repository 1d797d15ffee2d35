package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"gantry/internal/problem"
)

// TestKilledMemberKeepsWhatItAcknowledged writes from a process of its own,
// kills it between two acknowledgements, and looks for every one of them.
func TestKilledMemberKeepsWhatItAcknowledged(t *testing.T) {
	if dir := os.Getenv("GANTRY_STORE_WRITER"); dir != "" {
		writeForever(t, dir)
		return
	}
	dir := t.TempDir()
	next := 0
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledMemberKeepsWhatItAcknowledged$")
		cmd.Env = append(os.Environ(), "GANTRY_STORE_WRITER="+dir, fmt.Sprintf("GANTRY_STORE_FROM=%d", next))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for acked := 0; acked < 50 && lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "ok ") {
				acked++
				next++
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		s := open(t, dir)
		page, err := s.List(t.Context(), "/registry/x/", ListOptions{})
		if err != nil || len(page.Records) < next || len(page.Records) > next+1 {
			t.Errorf("%d records after %d were acknowledged (%v)", len(page.Records), next, err)
		}
		next = len(page.Records)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func writeForever(t *testing.T, dir string) {
	s := open(t, dir)
	var from int
	if _, err := fmt.Sscan(os.Getenv("GANTRY_STORE_FROM"), &from); err != nil {
		t.Fatal(err)
	}
	for i := from; ; i++ {
		_, err := s.Create(context.Background(), fmt.Sprintf("/registry/x/%08d", i), []byte("v"), 0)
		if err != nil && !errors.Is(err, problem.Exists) {
			t.Fatal(err)
		}
		fmt.Printf("ok %d\n", i)
	}
}

func TestRecordsWithALifetimeShareLeases(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for i := range 10 {
		if _, err := s.Create(t.Context(), fmt.Sprintf("/registry/x/%d", i), nil, 3600e9); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := s.client.Leases(t.Context())
	if err != nil || len(resp.Leases) != 1 {
		t.Errorf("%d leases for ten records (%v), want one", len(resp.Leases), err)
	}
}
