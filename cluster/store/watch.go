package store

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Change is one event of a Watch.
type Change struct {
	Record       // Value is nil when Deleted
	Deleted bool // Revision is then that of the removal
}

// Batch is what a Watch delivers at once: whole transactions, in order.
type Batch struct {
	Changes  []Change
	Revision int64 // everything up to this revision has been delivered
	Err      error // ErrCompacted or a broken connection; the last batch
}

// Watch delivers the changes under prefix from revision from on, that one
// included. The channel is closed after a batch with an error, and when ctx ends.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) <-chan Batch {
	out := make(chan Batch)
	events := s.client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(from))
	go func() {
		defer close(out)
		for resp := range events {
			batch := batchOf(resp)
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			}
			if batch.Err != nil {
				return
			}
		}
		select {
		case out <- Batch{Err: errors.New("etcd ended the watch")}:
		case <-ctx.Done():
		}
	}()
	return out
}

// RequestProgress makes every Watch deliver a batch, if need be an empty one,
// with the store's newest revision. Others may write to the same etcd what no
// Watch here sees. The embedded member has no others.
func (s *Store) RequestProgress(ctx context.Context) error {
	if s.server != nil {
		return nil
	}
	return translate(s.client.RequestProgress(clientv3.WithRequireLeader(ctx)))
}

func batchOf(resp clientv3.WatchResponse) Batch {
	if err := resp.Err(); err != nil {
		if resp.CompactRevision > 0 {
			err = ErrCompacted
		}
		return Batch{Err: err}
	}
	b := Batch{Revision: resp.Header.Revision, Changes: make([]Change, len(resp.Events))}
	for i, e := range resp.Events {
		b.Changes[i] = Change{Record: record(e.Kv), Deleted: e.Type == mvccpb.DELETE}
	}
	if n := len(b.Changes); n > 0 {
		// The header may be ahead of the events that were sent.
		b.Revision = b.Changes[n-1].Revision
	}
	return b
}
