package names

import (
	"testing"

	"github.com/miekg/dns"
)

// FuzzServe answers any message: what is answered can be sent.
func FuzzServe(f *testing.F) {
	for _, name := range []string{"web.", "Both.", "big.", "unknown.", "2.0.18.172.in-addr.arpa.", "x.in-addr.arpa.", "."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeANY} {
			m := new(dns.Msg).SetQuestion(name, kind)
			m.SetEdns0(4096, true)
			data, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	inside := known
	inside.closed = true // nothing is forwarded
	s, err := New(Config{Directory: inside})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		q := new(dns.Msg)
		if q.Unpack(data) != nil {
			return
		}
		m := s.serve(t.Context(), Client{Container: "c", Ndots: true}, q, "udp")
		if m == nil {
			return
		}
		if _, err := m.Pack(); err != nil {
			t.Errorf("answer to %v does not pack: %v", q, err)
		}
	})
}
