// Package volume sets up the volumes of pods on this host: emptyDir, hostPath,
// configMap, secret, downwardAPI and projected. Other kinds are refused by name.
//
// Layout, with DIR for what may be on disk and RUN for what must not be:
//
//	DIR/UID/volumes/kubernetes.io~empty-dir/NAME
//	DIR/UID/volumes/kubernetes.io~{configmap,downward-api}/NAME
//	RUN/UID/volumes/kubernetes.io~{secret,projected}/NAME
//	DIR/UID/volume-subpaths/CONTAINER/N   what a subPath resolved to, bind-mounted
//
// Setting up is idempotent and repeated when a ConfigMap or Secret changes:
// files are replaced all together, by renaming the symbolic link ..data. The
// package runs no goroutines; a pod's volumes are set up by one caller at a time.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"gantry/cluster/kubelet/podspec"
)

// Source gives what volumes are filled from. A missing object is an apierrors
// NotFound error.
type Source interface {
	podspec.Objects
	// Token returns a token of the pod's service account, and when it should be
	// renewed. audience is empty for the API server's own.
	Token(ctx context.Context, pod *v1.Pod, audience string, expirationSeconds int64) (token string, renew time.Time, err error)
	NotFound(error) bool
}

// Store sets volumes up and removes them.
type Store struct {
	Dir    string // pods' directories on disk
	RunDir string // the same for secrets; should be a memory file system
	Source Source
}

// Mounted is a volume that is ready to be mounted into containers.
type Mounted struct {
	HostPath string
	ReadOnly bool // content that the kubelet writes
}

// Error says which volume could not be set up.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// SetUp makes or refreshes all of pod's volumes. renew is when a token among
// them needs a new SetUp, zero if none does. The error joins one Error for each
// volume that failed.
func (s *Store) SetUp(ctx context.Context, pod *v1.Pod, fields podspec.FieldContext) (mounted map[string]Mounted, renew time.Time, err error) {
	mounted = map[string]Mounted{}
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		m, at, err := s.setUp(ctx, pod, v, fields)
		if err != nil {
			errs = append(errs, &Error{Volume: v.Name, Err: err})
			continue
		}
		mounted[v.Name] = m
		if !at.IsZero() && (renew.IsZero() || at.Before(renew)) {
			renew = at
		}
	}
	return mounted, renew, errors.Join(errs...)
}

func (s *Store) setUp(ctx context.Context, pod *v1.Pod, v *v1.Volume, fields podspec.FieldContext) (Mounted, time.Time, error) {
	switch {
	case v.EmptyDir != nil:
		m, err := s.emptyDir(pod, v)
		return m, time.Time{}, err
	case v.HostPath != nil:
		m, err := hostPath(v.HostPath)
		return m, time.Time{}, err
	}
	b := builder{ctx: ctx, source: s.Source, pod: pod, fields: fields, files: map[string]file{}}
	var root, kind string
	var err error
	switch {
	case v.ConfigMap != nil:
		root, kind = s.Dir, "configmap"
		err = b.configMap(v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.DefaultMode, v.ConfigMap.Optional)
	case v.Secret != nil:
		root, kind = s.RunDir, "secret"
		err = b.secret(v.Secret.SecretName, v.Secret.Items, v.Secret.DefaultMode, v.Secret.Optional)
	case v.DownwardAPI != nil:
		root, kind = s.Dir, "downward-api"
		err = b.downward(v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
	case v.Projected != nil:
		root, kind = s.RunDir, "projected"
		err = b.projected(v.Projected)
	default:
		return Mounted{}, time.Time{}, fmt.Errorf("%s volumes are not supported", Kind(v))
	}
	if err != nil {
		return Mounted{}, time.Time{}, err
	}
	dir := filepath.Join(root, string(pod.UID), "volumes", "kubernetes.io~"+kind, v.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Mounted{}, time.Time{}, err
	}
	return Mounted{HostPath: dir, ReadOnly: true}, b.renew, writeFiles(dir, b.files, fsGroup(pod))
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

func (s *Store) emptyDir(pod *v1.Pod, v *v1.Volume) (Mounted, error) {
	dir := filepath.Join(s.Dir, string(pod.UID), "volumes", "kubernetes.io~empty-dir", v.Name)
	m := Mounted{HostPath: dir}
	fresh := false
	if _, err := os.Stat(dir); err != nil {
		fresh = true
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return m, err
		}
	}
	switch v.EmptyDir.Medium {
	case v1.StorageMediumDefault:
	case v1.StorageMediumMemory:
		mounted, err := memoryDir(dir, v.EmptyDir.SizeLimit)
		if err != nil {
			return m, fmt.Errorf("mount tmpfs at %s: %w", dir, err)
		}
		fresh = fresh || mounted
	default:
		return m, fmt.Errorf("emptyDir medium %s is not supported", v.EmptyDir.Medium)
	}
	if !fresh {
		return m, nil
	}
	mode := fs.FileMode(0o777)
	if g := fsGroup(pod); g != nil {
		if err := os.Chown(dir, -1, int(*g)); err != nil {
			return m, err
		}
		mode |= fs.ModeSetgid
	}
	return m, os.Chmod(dir, mode)
}

// memoryDir mounts a tmpfs on dir unless one is there, and tells whether it did.
func memoryDir(dir string, limit *resource.Quantity) (bool, error) {
	var own, parent unix.Stat_t
	if err := errors.Join(unix.Lstat(dir, &own), unix.Lstat(filepath.Dir(dir), &parent)); err != nil {
		return false, err
	}
	if own.Dev != parent.Dev {
		return false, nil
	}
	data := "mode=0777"
	if limit != nil && !limit.IsZero() {
		data += fmt.Sprintf(",size=%d", limit.Value())
	}
	return true, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data)
}

// hostPath checks that the host's file is of the wanted type, or makes it.
func hostPath(v *v1.HostPathVolumeSource) (Mounted, error) {
	m := Mounted{HostPath: v.Path}
	want := v1.HostPathUnset
	if v.Type != nil {
		want = *v.Type
	}
	if want == v1.HostPathUnset {
		// As in the reference nothing is checked; the runtime makes a missing directory.
		if _, err := os.Stat(v.Path); errors.Is(err, fs.ErrNotExist) {
			return m, os.MkdirAll(v.Path, 0o755)
		}
		return m, nil
	}
	info, err := os.Stat(v.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && want == v1.HostPathDirectoryOrCreate:
		return m, os.MkdirAll(v.Path, 0o755)
	case errors.Is(err, fs.ErrNotExist) && want == v1.HostPathFileOrCreate:
		f, err := os.OpenFile(v.Path, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return m, err
		}
		return m, f.Close()
	}
	if what := hostPathMismatch(info, want); err != nil || what != "" {
		return m, fmt.Errorf("hostPath type check failed: %s is not a %s", v.Path, hostPathNames[want])
	}
	return m, nil
}

var hostPathNames = map[v1.HostPathType]string{
	v1.HostPathDirectoryOrCreate: "directory", v1.HostPathDirectory: "directory",
	v1.HostPathFileOrCreate: "file", v1.HostPathFile: "file", v1.HostPathSocket: "socket file",
	v1.HostPathCharDev: "character device", v1.HostPathBlockDev: "block device",
}

func hostPathMismatch(info fs.FileInfo, want v1.HostPathType) string {
	if info == nil {
		return "missing"
	}
	mode := info.Mode()
	ok := false
	switch want {
	case v1.HostPathDirectoryOrCreate, v1.HostPathDirectory:
		ok = mode.IsDir()
	case v1.HostPathFileOrCreate, v1.HostPathFile:
		ok = mode.IsRegular()
	case v1.HostPathSocket:
		ok = mode&fs.ModeSocket != 0
	case v1.HostPathCharDev:
		ok = mode&fs.ModeCharDevice != 0
	case v1.HostPathBlockDev:
		ok = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	}
	if ok {
		return ""
	}
	return "other"
}
