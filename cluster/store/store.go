// Package store keeps the cluster's objects in etcd.
//
// It owns keys, revisions, transactions, watch, compaction and the embedded
// etcd member. It knows nothing of what the values mean: those are upstream's
// encoding of upstream's objects under upstream's keys (/registry/...), so that
// an upstream kube-apiserver can take over the same etcd, and the reverse.
//
// Embedded, the member lives in DIR (WAL, snapshots and a bbolt file as etcd
// lays them out, mode 0700), has no listener, and is called in process. A write
// is acknowledged after its fsync. With Endpoints the same code speaks to an
// existing etcd.
//
// Goroutines: etcd's own; one per Watch, which ends with its context; Run,
// which compacts history.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"

	"gantry/internal/problem"
)

// Prefix begins every key.
const Prefix = "/registry/"

// compactEvery is both the interval of compaction and the age of the history
// that is kept, as upstream's API server has it.
const compactEvery = 5 * time.Minute

// dialTimeout bounds the first contact with a foreign etcd.
const dialTimeout = 5 * time.Second

// Config says where the objects are. Exactly one of Dir and Endpoints is set.
type Config struct {
	Dir       string       // of the embedded member; created 0700 if missing
	Endpoints []string     // URLs of an existing etcd
	TLS       *tls.Config  // for Endpoints; nil for plain text
	Logger    *slog.Logger // nil discards
}

// Store is a connection to the objects. Its methods may be called concurrently.
type Store struct {
	log    *slog.Logger
	client *clientv3.Client
	server *etcdserver.EtcdServer // nil with Endpoints
	leases leases
}

// Record is one key with its value.
type Record struct {
	Key      string
	Value    []byte
	Revision int64 // of the last change
}

// ErrCompacted says that the revision asked for is no longer kept.
var ErrCompacted = errors.New("the requested revision has been compacted")

// ErrFuture says that the revision asked for does not exist yet.
var ErrFuture = errors.New("the requested revision is in the future")

// Open starts the embedded member, or connects to Endpoints, and returns when
// reads and writes are served. Close releases it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if (cfg.Dir == "") == (len(cfg.Endpoints) == 0) {
		return nil, problem.New(problem.Invalid, "store: want exactly one of a directory and etcd endpoints")
	}
	s := &Store{log: cfg.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if cfg.Dir != "" {
		err = s.openEmbedded(ctx, cfg.Dir)
	} else {
		err = s.openRemote(ctx, cfg)
	}
	if err != nil {
		return nil, err
	}
	s.leases.client = s.client
	return s, nil
}

func (s *Store) openRemote(ctx context.Context, cfg Config) error {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   cfg.Endpoints,
		TLS:         cfg.TLS,
		DialTimeout: dialTimeout,
		Logger:      zapLogger(s.log),
	})
	if err != nil {
		return fmt.Errorf("connect to etcd %v: %w", cfg.Endpoints, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := client.Get(ctx, Prefix, clientv3.WithLimit(1), clientv3.WithKeysOnly()); err != nil {
		return errors.Join(problem.New(problem.Unavailable, "etcd %v: %w", cfg.Endpoints, err), client.Close())
	}
	s.client = client
	return nil
}

// Close stops the embedded member, or disconnects. What was acknowledged is on
// disk before and after.
func (s *Store) Close() error {
	err := s.client.Close()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if s.server != nil {
		s.server.HardStop()
	}
	return err
}

// Run compacts history until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	var before int64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		rev, err := s.Revision(ctx)
		if err == nil && before > 0 {
			err = s.Compact(ctx, before)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("compaction failed, will be tried again", "err", err)
			continue
		}
		before = rev
	}
}

// Compact forgets history before revision.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	_, err := s.client.Compact(ctx, revision)
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil // another server was faster
	}
	return err
}

// Revision returns the revision of the newest acknowledged write.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	if s.server != nil {
		return s.server.KV().Rev(), nil
	}
	resp, err := s.client.Get(ctx, Prefix, clientv3.WithCountOnly())
	if err != nil {
		return 0, translate(err)
	}
	return resp.Header.Revision, nil
}

// Get returns the record at key, NotFound if there is none.
func (s *Store) Get(ctx context.Context, key string) (Record, error) {
	resp, err := s.client.Get(ctx, key, s.readOptions()...)
	if err != nil {
		return Record{}, translate(err)
	}
	if len(resp.Kvs) == 0 {
		return Record{}, problem.New(problem.NotFound, "key %s", key)
	}
	return record(resp.Kvs[0]), nil
}

// readOptions makes reads of the embedded member local: with one member, what
// was acknowledged has been applied in this process.
func (s *Store) readOptions() []clientv3.OpOption {
	if s.server != nil {
		return []clientv3.OpOption{clientv3.WithSerializable()}
	}
	return nil
}

// ListOptions narrow a List.
type ListOptions struct {
	Revision int64  // read as of this revision; 0 means the newest
	Limit    int64  // 0 means all
	After    string // only keys greater than this one
}

// Page is one result of List, in key order.
type Page struct {
	Records   []Record
	Revision  int64 // the revision read
	Remaining int64 // number of records after this page
}

// List returns the records whose keys begin with prefix.
//
// Errors: ErrCompacted, ErrFuture.
func (s *Store) List(ctx context.Context, prefix string, o ListOptions) (Page, error) {
	start := prefix
	if o.After != "" {
		start = o.After + "\x00"
	}
	opts := append(s.readOptions(), clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)),
		clientv3.WithRev(o.Revision), clientv3.WithLimit(o.Limit))
	resp, err := s.client.Get(ctx, start, opts...)
	if err != nil {
		return Page{}, translate(err)
	}
	page := Page{Revision: o.Revision, Records: make([]Record, len(resp.Kvs))}
	if page.Revision == 0 {
		page.Revision = resp.Header.Revision
	}
	for i, kv := range resp.Kvs {
		page.Records[i] = record(kv)
	}
	page.Remaining = resp.Count - int64(len(resp.Kvs))
	return page, nil
}

// Create writes a new record and returns its revision. A ttl above zero removes
// the record when it has passed, up to a minute late.
//
// Errors: Exists.
func (s *Store) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (int64, error) {
	put, err := s.put(ctx, key, value, ttl)
	if err != nil {
		return 0, err
	}
	resp, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(put).Commit()
	if err != nil {
		return 0, translate(err)
	}
	if !resp.Succeeded {
		return 0, problem.New(problem.Exists, "key %s", key)
	}
	return resp.Header.Revision, nil
}

func (s *Store) put(ctx context.Context, key string, value []byte, ttl time.Duration) (clientv3.Op, error) {
	if ttl <= 0 {
		return clientv3.OpPut(key, string(value)), nil
	}
	id, err := s.leases.get(ctx, ttl)
	return clientv3.OpPut(key, string(value), clientv3.WithLease(id)), err
}

// Update replaces the record at key if its revision is still want, and returns
// the new revision. On Conflict it returns what is there instead.
//
// Errors: Conflict, NotFound.
func (s *Store) Update(ctx context.Context, key string, value []byte, want int64, ttl time.Duration) (int64, Record, error) {
	put, err := s.put(ctx, key, value, ttl)
	if err != nil {
		return 0, Record{}, err
	}
	return s.change(ctx, key, put, want)
}

// Delete removes the record at key if its revision is still want, and returns
// the revision of the removal. On Conflict it returns what is there instead.
//
// Errors: Conflict, NotFound.
func (s *Store) Delete(ctx context.Context, key string, want int64) (int64, Record, error) {
	return s.change(ctx, key, clientv3.OpDelete(key), want)
}

func (s *Store) change(ctx context.Context, key string, op clientv3.Op, want int64) (int64, Record, error) {
	resp, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", want)).
		Then(op).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return 0, Record{}, translate(err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, Record{}, nil
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return 0, Record{}, problem.New(problem.NotFound, "key %s", key)
	}
	return 0, record(kvs[0]), problem.New(problem.Conflict, "key %s is at revision %d, not %d", key, kvs[0].ModRevision, want)
}

func record(kv *mvccpb.KeyValue) Record {
	return Record{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}
}

func translate(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, rpctypes.ErrGRPCCompacted):
		return ErrCompacted
	case errors.Is(err, rpctypes.ErrFutureRev), errors.Is(err, rpctypes.ErrGRPCFutureRev):
		return ErrFuture
	case errors.Is(err, rpctypes.ErrNoSpace), errors.Is(err, rpctypes.ErrGRPCNoSpace):
		return problem.New(problem.NoSpace, "etcd: %w", err)
	}
	return err
}

// leaseSlack is how much later than asked a record with a lifetime may vanish:
// records made within it share one etcd lease, which is what makes them cheap.
const leaseSlack = time.Minute

type leases struct {
	client *clientv3.Client

	mu      sync.Mutex
	current map[time.Duration]lease
}

type lease struct {
	id    clientv3.LeaseID
	until time.Time // may be given to new records before this
}

func (l *leases) get(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	l.mu.Lock()
	have, ok := l.current[ttl]
	l.mu.Unlock()
	if ok && time.Now().Before(have.until) {
		return have.id, nil
	}
	resp, err := l.client.Grant(ctx, int64((ttl+leaseSlack)/time.Second))
	if err != nil {
		return 0, fmt.Errorf("grant lease: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		l.current = map[time.Duration]lease{}
	}
	l.current[ttl] = lease{resp.ID, time.Now().Add(leaseSlack)}
	return resp.ID, nil
}
