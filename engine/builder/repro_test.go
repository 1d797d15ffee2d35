package builder

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTheSameInputsGiveTheSameDigest builds in two data directories that differ
// in all that is no input: umask, clock, the order, owner and times in which the
// context comes. With SOURCE_DATE_EPOCH that holds for RUN too.
func TestTheSameInputsGiveTheSameDigest(t *testing.T) {
	const copies = `FROM busybox AS made
COPY --chmod=711 b dir /made/
FROM busybox
WORKDIR /w/sub
COPY . .
COPY --link a /x/y/
COPY --from=made --chown=web:staff /made /from
ADD archive.tar /unpacked/
COPY <<EOT /here
text
EOT
LABEL b=1 a=2
VOLUME /z /y
ENV Z=1 A=2
`
	const runs = copies + "RUN mkdir -p /new/dir && echo $A > /new/dir/file && ln -s file /new/dir/link && chmod 777 /w && rm /x/y/a && mv /here /there\n"
	epoch := "1600000000"
	for _, c := range []struct {
		rule, dockerfile string
		args             map[string]*string
		later            time.Duration // added to the times of the second context
	}{
		{"times of files are inputs", copies, nil, 0},
		{"with SOURCE_DATE_EPOCH those after it are none", copies, map[string]*string{epochArgument: &epoch}, 1000 * time.Hour},
		{"nor is the clock of RUN", runs, map[string]*string{epochArgument: &epoch}, 1000 * time.Hour},
	} {
		t.Run(c.rule, func(t *testing.T) {
			files := []file{{name: "Dockerfile", body: c.dockerfile}, {name: "a", body: "1"}, {name: "b", body: "2", mode: 0o600}, {name: "dir/", mode: 0o750},
				{name: "dir/c", body: "3"}, {name: "link", link: "dir/c"},
				{name: "archive.tar", body: string(archive(t, []file{{name: "in/"}, {name: "in/file", body: "x", uid: 7}}))}}
			for i := range files {
				files[i].time = time.Unix(1700000000+int64(i), 5)
			}
			first := newBench(t)
			first.busybox()
			var base bytes.Buffer
			if err := first.images.Save(ctx, &base, []string{"busybox"}); err != nil {
				t.Fatal(err)
			}
			build := func(b *bench) (id, listing string) {
				if out, err := b.build(Request{Tags: []string{"x"}, BuildArgs: c.args}, "", files...); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				return b.id("x"), b.listing("x")
			}
			id, listing := build(first)

			second := newBench(t)
			if _, err := second.images.Load(ctx, &base, nil); err != nil {
				t.Fatal(err)
			}
			slices.Reverse(files)
			for i := range files {
				files[i].uid = 1000
				files[i].time = files[i].time.Add(c.later)
			}
			before := unix.Umask(0o077)
			defer unix.Umask(before)
			again, other := build(second)
			if id != again || listing != other {
				t.Errorf("%s and %s:\n%s\n%s", id, again, listing, other)
			}
			old := second.listing("busybox")
			for line := range strings.Lines(listing) {
				if c.args != nil && !strings.Contains(old, line) && !strings.Contains(line, " 2020-09-13 ") {
					t.Errorf("not of the epoch: %s", line)
				}
			}
		})
	}
}
