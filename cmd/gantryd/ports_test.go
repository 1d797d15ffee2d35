package main

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gantry/internal/control"
)

const socketTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0100007F:A1B2 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
`

func TestOnlyListeningSocketsArePorts(t *testing.T) {
	got, err := parseSockets(strings.NewReader(socketTable))
	if err != nil {
		t.Fatal(err)
	}
	want := []control.Port{{Port: 8080, Protocol: "tcp", Loopback: true}, {Port: 80, Protocol: "tcp"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOurOwnListenersAreSeen(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err) // a host without IPv6
			continue
		}
		defer l.Close()
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		ports, err := listening(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		want := control.Port{Port: port, Protocol: "tcp", Loopback: address != "0.0.0.0:0"}
		if !slices.Contains(ports, want) {
			t.Errorf("%s: %+v is not in %+v", address, want, ports)
		}
	}
}

func FuzzParseSockets(f *testing.F) {
	f.Add(socketTable)
	f.Add("x\n0: zz:zz 0 0A\n")
	f.Fuzz(func(t *testing.T, table string) {
		ports, err := parseSockets(strings.NewReader(table))
		if err != nil && len(ports) > 0 {
			t.Errorf("both %v and %v", ports, err)
		}
	})
}
