package builder

import (
	"strings"
	"testing"

	"gantry/engine/image"
)

// TestBuildsForOtherPlatforms needs nothing of the other CPU: commands run in
// stages of the build's own platform, the image gets their files.
func TestBuildsForOtherPlatforms(t *testing.T) {
	b := newBench(t)
	b.busybox()
	const dockerfile = `FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETPLATFORM TARGETARCH TARGETVARIANT BUILDARCH
RUN echo $TARGETPLATFORM $TARGETARCH $TARGETVARIANT from $BUILDARCH > /made
FROM scratch AS base
COPY --from=build /made /made
WORKDIR /work
FROM base
COPY app .
CMD ["/work/app"]
`
	host := image.Host()
	for platform, want := range map[string]string{
		"linux/s390x":  "linux/s390x s390x from " + host.Architecture,
		"linux/arm/v7": "linux/arm/v7 arm v7 from " + host.Architecture,
		"":             strings.TrimSpace(image.FormatPlatform(host) + " " + host.Architecture + " " + host.Variant),
	} {
		out := b.mustBuild(Request{Tags: []string{"x"}, Platform: platform}, dockerfile, file{name: "app", body: platform})
		img, err := b.images.Resolve(ctx, "x")
		if err != nil {
			t.Fatal(err)
		}
		if got := image.FormatPlatform(img.Platform()); platform != "" && got != platform {
			t.Errorf("%s: the image is for %s", platform, got)
		}
		if files := b.listing("x"); !strings.Contains(files, want) {
			t.Errorf("%s: no %q in\n%s%s", platform, want, files, out)
		}
	}
	// An image for another CPU is a base, as long as nothing runs in it.
	b.mustBuild(Request{Tags: []string{"foreign"}, Platform: "linux/s390x"}, "FROM scratch\nCOPY app /bin/app\n", file{name: "app"})
	b.mustBuild(Request{Tags: []string{"more"}, Platform: "linux/s390x"}, "FROM foreign\nCOPY app /bin/more\nENV A=1\n", file{name: "app"})
	out, err := b.build(Request{Platform: "linux/s390x"}, "FROM foreign\nRUN more\n")
	if want := "image foreign is for linux/s390x, this host is " + image.FormatPlatform(host); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("RUN: %v, want %q\n%s", err, want, out)
	}
}
