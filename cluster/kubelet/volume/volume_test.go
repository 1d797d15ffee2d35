package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gantry/cluster/kubelet/podspec"
	"gantry/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }

var errMissing = errors.New("not found")

type fake struct {
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
	token      string
}

func (f *fake) ConfigMap(_, name string) (*v1.ConfigMap, error) {
	if cm := f.configMaps[name]; cm != nil {
		return cm, nil
	}
	return nil, errMissing
}

func (f *fake) Secret(_, name string) (*v1.Secret, error) {
	if s := f.secrets[name]; s != nil {
		return s, nil
	}
	return nil, errMissing
}

func (f *fake) NotFound(err error) bool { return errors.Is(err, errMissing) }

var renewal = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func (f *fake) Token(_ context.Context, _ *v1.Pod, audience string, _ int64) (string, time.Time, error) {
	return f.token + audience, renewal, nil
}

func ptr[T any](v T) *T { return &v }

func testStore(t *testing.T) (*Store, *fake) {
	f := &fake{token: "tok", configMaps: map[string]*v1.ConfigMap{"conf": {Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0}}}},
		secrets: map[string]*v1.Secret{"sec": {Data: map[string][]byte{"key": []byte("s3")}}}}
	dir := t.TempDir()
	return &Store{Dir: filepath.Join(dir, "disk"), RunDir: filepath.Join(dir, "run"), Source: f}, f
}

func podWith(volumes ...v1.Volume) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u", Labels: map[string]string{"app": "x"}}, Spec: v1.PodSpec{Volumes: volumes}}
}

func vol(name string, source v1.VolumeSource) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: source}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

func TestConfigMapIsSwappedAtomically(t *testing.T) {
	s, f := testStore(t)
	pod := podWith(vol("c", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, DefaultMode: ptr(int32(0o440)),
		Items: []v1.KeyToPath{{Key: "a", Path: "deep/a"}, {Key: "b", Path: "b", Mode: ptr(int32(0o600))}}}}))
	m, _, err := s.SetUp(t.Context(), pod, podspec.FieldContext{})
	if err != nil {
		t.Fatal(err)
	}
	dir := m["c"].HostPath
	if read(t, filepath.Join(dir, "deep/a")) != "1" || read(t, filepath.Join(dir, "b")) != "2" || !m["c"].ReadOnly {
		t.Errorf("content of %s", dir)
	}
	for name, want := range map[string]os.FileMode{"deep/a": 0o440, "b": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	version, _ := os.Readlink(filepath.Join(dir, dataName))
	if _, _, err := s.SetUp(t.Context(), pod, podspec.FieldContext{}); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Readlink(filepath.Join(dir, dataName)); again != version {
		t.Errorf("unchanged content was written again: %s, then %s", version, again)
	}
	f.configMaps["conf"] = &v1.ConfigMap{Data: map[string]string{"a": "new"}}
	pod.Spec.Volumes[0].ConfigMap.Items = []v1.KeyToPath{{Key: "a", Path: "only"}}
	if _, _, err := s.SetUp(t.Context(), pod, podspec.FieldContext{}); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), versionHead) {
			names = append(names, e.Name())
		}
	}
	if got := strings.Join(names, " "); got != "..data only" || len(entries) != 3 || read(t, filepath.Join(dir, "only")) != "new" {
		t.Errorf("after the change: %v", entries)
	}
}

func TestProjected(t *testing.T) {
	s, _ := testStore(t)
	pod := podWith(vol("p", v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", Audience: "vault"}},
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, Items: []v1.KeyToPath{{Key: "a", Path: "ca.crt"}}}},
		{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "sec"}}},
		{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "no"}, Optional: ptr(true)}},
	}}}))
	m, renew, err := s.SetUp(t.Context(), pod, podspec.FieldContext{})
	if err != nil || !renew.Equal(renewal) {
		t.Fatal(renew, err)
	}
	for name, want := range map[string]string{"token": "tokvault", "ca.crt": "1", "key": "s3", "labels": `app="x"`} {
		if got := read(t, filepath.Join(m["p"].HostPath, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	if !strings.HasPrefix(m["p"].HostPath, s.RunDir) {
		t.Errorf("a token is on disk, at %s", m["p"].HostPath)
	}
}

func TestFailuresNameTheVolume(t *testing.T) {
	s, _ := testStore(t)
	for want, v := range map[string]v1.Volume{
		`MountVolume.SetUp failed for volume "a" : not found`:                                                    vol("a", v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "no"}}),
		`MountVolume.SetUp failed for volume "a" : configmap references non-existent configmap key: x`:           vol("a", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, Items: []v1.KeyToPath{{Key: "x", Path: "x"}}}}),
		`MountVolume.SetUp failed for volume "a" : persistentVolumeClaim volumes are not supported`:              vol("a", v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}}),
		`MountVolume.SetUp failed for volume "a" : csi volumes are not supported`:                                vol("a", v1.VolumeSource{CSI: &v1.CSIVolumeSource{}}),
		`MountVolume.SetUp failed for volume "a" : hostPath type check failed: /etc/hostname is not a directory`: vol("a", v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/etc/hostname", Type: ptr(v1.HostPathDirectory)}}),
		`MountVolume.SetUp failed for volume "a" : hostPath type check failed: /no/such is not a socket file`:    vol("a", v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/no/such", Type: ptr(v1.HostPathSocket)}}),
		`MountVolume.SetUp failed for volume "a" : invalid path "../x" in volume`:                                vol("a", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, Items: []v1.KeyToPath{{Key: "a", Path: "../x"}}}}),
	} {
		if _, _, err := s.SetUp(t.Context(), podWith(v), podspec.FieldContext{}); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestEmptyDirs(t *testing.T) {
	testenv.NeedRoot(t)
	s, _ := testStore(t)
	pod := podWith(vol("disk", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}),
		vol("mem", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}}),
		vol("huge", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumHugePages}}))
	if _, _, err := s.SetUp(t.Context(), pod, podspec.FieldContext{}); err == nil || !strings.Contains(err.Error(), "emptyDir medium HugePages is not supported") {
		t.Errorf("huge pages: %v", err)
	}
	pod.Spec.Volumes = pod.Spec.Volumes[:2]
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr(int64(1234))}
	m, _, err := s.SetUp(t.Context(), pod, podspec.FieldContext{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m["disk"].HostPath, "kept"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(m["mem"].HostPath, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Blocks*uint64(fs.Bsize) != 1<<20 {
		t.Errorf("memory volume: %+v, %v", fs, err)
	}
	if m, _, err = s.SetUp(t.Context(), pod, podspec.FieldContext{}); err != nil || read(t, filepath.Join(m["disk"].HostPath, "kept")) != "x" {
		t.Errorf("a second set-up: %v", err)
	}
	if mounts, err := mountsBelow(s.Dir); err != nil || len(mounts) != 1 {
		t.Errorf("mounts: %v, %v", mounts, err)
	}
	if err := errors.Join(s.TearDown("u"), s.TearDown("u")); err != nil {
		t.Fatal(err)
	}
	if mounts, err := mountsBelow(s.Dir); err != nil || len(mounts) != 0 {
		t.Errorf("left: %v, %v", mounts, err)
	}
	if pods, err := s.Pods(); err != nil || len(pods) != 0 {
		t.Errorf("left: %v, %v", pods, err)
	}
}

func TestFSGroupOwnsWhatTheKubeletWrites(t *testing.T) {
	testenv.NeedRoot(t)
	s, _ := testStore(t)
	pod := podWith(vol("c", v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "sec", DefaultMode: ptr(int32(0o400))}}))
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr(int64(1234))}
	m, _, err := s.SetUp(t.Context(), pod, podspec.FieldContext{})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(m["c"].HostPath, "key"), &st); err != nil || st.Gid != 1234 || st.Mode&0o777 != 0o440 {
		t.Errorf("gid %d, mode %o, %v; want 1234, 440", st.Gid, st.Mode&0o777, err)
	}
}

func TestSubPathStaysInTheVolume(t *testing.T) {
	testenv.NeedRoot(t)
	s, _ := testStore(t)
	host := t.TempDir()
	for _, link := range []struct{ to, name string }{{"/etc", "abs"}, {"../..", "up"}, {"real", "inside"}} {
		if err := os.Symlink(link.to, filepath.Join(host, link.name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(host, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"abs", "up", "abs/ssl", "/etc", "../x", "a/../../x"} {
		if path, err := s.SubPath("u", "c", 0, host, sub); err == nil {
			t.Errorf("subPath %q gave %s", sub, path)
		}
	}
	path, err := s.SubPath("u", "c", 1, host, "inside/new")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(host, "real/new/f")); err != nil {
		t.Errorf("not the volume's directory: %v", err)
	}
	if _, err := s.SubPath("u", "c", 1, host, "real"); err != nil { // another attempt of the container
		t.Error(err)
	}
	if err := s.TearDown("u"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(host, "real/new/f")); err != nil {
		t.Errorf("tearing down removed the volume's content: %v", err)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`/a\040b`: "/a b", `/a\134`: `/a\`, "/plain": "/plain", `/bad\0`: `/bad\0`, `/x\999`: `/x\999`} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}
