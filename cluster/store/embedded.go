package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/etcd/server/v3/storage/wal"

	"gantry/internal/problem"
)

const (
	memberName = "gantry"
	// memberURL names the member in the cluster's record. Nothing listens there.
	memberURL = "http://127.0.0.1:0"
)

// memberConfig is etcd's for one member that is called in process.
func memberConfig(dir string, log *slog.Logger) (config.ServerConfig, error) {
	urls, err := types.NewURLs([]string{memberURL})
	if err != nil {
		return config.ServerConfig{}, err
	}
	lg := zapLogger(log)
	return config.ServerConfig{
		Name:                memberName,
		ClientURLs:          urls,
		PeerURLs:            urls,
		DataDir:             dir,
		NewCluster:          true,
		InitialPeerURLsMap:  types.URLsMap{memberName: urls},
		InitialClusterToken: memberName,

		// One member elects itself after one or two ticks, which is what
		// start-up waits for. A shorter tick would only wake the idle process.
		TickMs:                     50,
		ElectionTicks:              2,
		InitialElectionTickAdvance: true,
		PreVote:                    true,
		BootstrapTimeout:           time.Second,

		// A lone member needs no log for followers to catch up with; every
		// entry that is kept is memory.
		SnapshotCount:          5000,
		SnapshotCatchUpEntries: 50,
		MaxSnapFiles:           2,
		MaxWALFiles:            2,

		// The write-ahead log makes a write durable; the backend follows, and
		// each of its commits costs two more fsyncs.
		BackendBatchInterval: 500 * time.Millisecond,
		BackendBatchLimit:    10000,
		BackendFreelistType:  bolt.FreelistMapType,
		QuotaBackendBytes:    8 << 30,

		MaxTxnOps:                   128,
		MaxRequestBytes:             3 << 20,
		MaxConcurrentStreams:        1 << 20,
		CompactionBatchLimit:        1000,
		CompactionSleepInterval:     10 * time.Millisecond,
		WatchProgressNotifyInterval: 10 * time.Minute,
		WarningApplyDuration:        time.Second,
		WarningUnaryRequestDuration: time.Second,
		DowngradeCheckTime:          time.Hour,
		CompactHashCheckTime:        time.Hour,
		MaxLearners:                 1,
		TokenTTL:                    300,
		BcryptCost:                  10, // unused, but etcd warns of 0
		StrictReconfigCheck:         true,
		V2Deprecation:               config.V2DeprDefault,
		ServerFeatureGate:           features.NewDefaultServerFeatureGate(memberName, lg),
		Metrics:                     "basic",
		Logger:                      lg,
	}, nil
}

// walSegmentBytes is what etcd preallocates, twice, for its write-ahead log. Its
// own 64 MB would be most of a small cluster's disk.
const walSegmentBytes = 16 << 20

// smallSegments sets etcd's size of segments, which is a variable of its package.
var smallSegments = sync.OnceFunc(func() { wal.SegmentSizeBytes = walSegmentBytes })

func (s *Store) openEmbedded(ctx context.Context, dir string) error {
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700)); err != nil {
		return fmt.Errorf("make etcd's directory: %w", err)
	}
	cfg, err := memberConfig(dir, s.log)
	if err != nil {
		return fmt.Errorf("configure etcd: %w", err)
	}
	smallSegments()
	server, err := etcdserver.NewServer(cfg)
	if err != nil {
		return fmt.Errorf("open etcd in %s: %w", dir, err)
	}
	server.Start()
	select {
	case <-server.ReadyNotify():
	case <-server.StopNotify():
		return problem.New(problem.Unavailable, "etcd in %s stopped while it started", dir)
	case <-ctx.Done():
		server.HardStop()
		return errors.Join(problem.New(problem.Unavailable, "etcd in %s did not become ready", dir), context.Cause(ctx))
	}
	s.server = server
	s.client = v3client.New(server)
	return nil
}
