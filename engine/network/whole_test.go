package network

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestAListThatChangesIsReadAgain(t *testing.T) {
	calls := 0
	got, err := whole(func() ([]int, error) {
		calls++
		if calls < 3 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if len(got) != 2 || err != nil || calls != 3 {
		t.Errorf("got %v, %v after %d calls", got, err, calls)
	}
	broken := errors.New("broken")
	if _, err := whole(func() ([]int, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want the list's own error", err)
	}
}
