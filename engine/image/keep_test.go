package image

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLayersKeepEverything carries all that a file can have through a layer,
// an overlay, a save and a load.
func TestLayersKeepEverything(t *testing.T) {
	const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep
	long := strings.Repeat(strings.Repeat("n", 200)+"/", 4) + strings.Repeat("f", 255)
	at := time.Unix(1234567890, 123456789)
	before := time.Unix(-86400, 5)
	layer := archive(t,
		entry{name: "bin/", mode: 0o755, time: at},
		entry{name: "bin/ping", body: "ping", mode: 0o755, time: at, pax: map[string]string{"SCHILY.xattr.security.capability": capability}},
		entry{name: "bin/second", typ: tar.TypeLink, link: "bin/ping"},
		entry{name: "bin/su", body: "su", mode: 0o4755, uid: 1 << 31, gid: 4294967294, time: before},
		entry{name: "tmp/", mode: 0o1777, time: at, pax: map[string]string{"SCHILY.xattr.user.note": "a=b\nc"}},
		entry{name: "group/", mode: 0o2775, gid: 50, time: at},
		entry{name: "dev/null", typ: tar.TypeChar, mode: 0o666, dev: [2]int64{1, 3}, time: at},
		entry{name: "dev/big", typ: tar.TypeBlock, mode: 0o660, dev: [2]int64{259, 70000}, time: at},
		entry{name: "run/fifo", typ: tar.TypeFifo, mode: 0o600, time: at},
		entry{name: long, body: "deep", time: at},
		entry{name: "link", typ: tar.TypeSymlink, link: strings.Repeat("../", 200) + "nowhere", uid: 1000, gid: 1000, time: at},
		entry{name: "späße\tund\nmehr", body: "x", time: at},
	)
	s := open(t)
	if _, err := s.Import(ctx, bytes.NewReader(layer), ImportOptions{Ref: "all"}); err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	if err := s.Save(ctx, &saved, []string{"all"}); err != nil {
		t.Fatal(err)
	}
	other := open(t) // when it closes, Check makes the archive again to the byte
	if _, err := other.Load(ctx, &saved, nil); err != nil {
		t.Fatal(err)
	}
	img, err := other.Resolve(ctx, "all")
	if err != nil {
		t.Fatal(err)
	}
	root, err := other.OpenRoot(img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]struct {
		mode     uint32
		uid, gid uint32
		links    uint64
		rdev     uint64
		time     time.Time
	}{
		"bin/ping":         {unix.S_IFREG | 0o755, 0, 0, 2, 0, at},
		"bin/second":       {unix.S_IFREG | 0o755, 0, 0, 2, 0, at},
		"bin/su":           {unix.S_IFREG | 0o4755, 1 << 31, 4294967294, 1, 0, before},
		"tmp":              {unix.S_IFDIR | 0o1777, 0, 0, 0, 0, at},
		"group":            {unix.S_IFDIR | 0o2775, 0, 50, 0, 0, at},
		"dev/null":         {unix.S_IFCHR | 0o666, 0, 0, 1, unix.Mkdev(1, 3), at},
		"dev/big":          {unix.S_IFBLK | 0o660, 0, 0, 1, unix.Mkdev(259, 70000), at},
		"run/fifo":         {unix.S_IFIFO | 0o600, 0, 0, 1, 0, at},
		"link":             {unix.S_IFLNK | 0o777, 1000, 1000, 1, 0, at},
		long:               {unix.S_IFREG | 0o644, 0, 0, 1, 0, at},
		"späße\tund\nmehr": {unix.S_IFREG | 0o644, 0, 0, 1, 0, at},
	} {
		st, err := root.Lstat(name)
		if err != nil {
			t.Errorf("%.40s: %v", name, err)
			continue
		}
		got := time.Unix(st.Mtim.Unix())
		if st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid || st.Rdev != want.rdev || !got.Equal(want.time) ||
			want.links > 0 && uint64(st.Nlink) != want.links {
			t.Errorf("%.40s: mode %o, owner %d:%d, %d links, device %x, time %v; want %+v", name, st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev, got, want)
		}
	}
	for name, want := range map[string]map[string]string{"bin/ping": {"security.capability": capability}, "tmp": {"user.note": "a=b\nc"}} {
		got, err := root.Xattrs(name)
		for k, v := range want {
			if err != nil || got["SCHILY.xattr."+k] != v {
				t.Errorf("attributes of %s: %q, %v; want %q", name, got, err, want)
			}
		}
	}
	to, err := root.Readlink("link")
	if err != nil || to != strings.Repeat("../", 200)+"nowhere" {
		t.Errorf("link leads to %.40q, %v", to, err)
	}
}
