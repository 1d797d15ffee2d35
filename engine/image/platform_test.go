package image

import "testing"

func TestParsePlatform(t *testing.T) {
	for text, want := range map[string]string{
		"linux/amd64": "linux/amd64", "arm64": "linux/arm64", "linux/arm/v7": "linux/arm/v7", "Linux/AArch64": "linux/arm64",
		"linux/arm64/v8": "linux/arm64", "linux": FormatPlatform(Host()), "Linux": FormatPlatform(Host()), "linux/amd64,linux/arm64": "", "": "", "linux/": "", "a/b/c/d": "",
	} {
		p, err := ParsePlatform(text)
		if (err == nil) != (want != "") || err == nil && FormatPlatform(p) != want {
			t.Errorf("%q: %s, %v; want %q", text, FormatPlatform(p), err, want)
		}
	}
}
