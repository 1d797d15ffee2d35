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

// FuzzParsePlatform formats what it has parsed, and parses that as the same.
func FuzzParsePlatform(f *testing.F) {
	for _, seed := range []string{"linux/arm64/v8", "Linux", "aarch64", "linux/arm/v7", "a/b/c/d", "linux(1)/amd64", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePlatform(text)
		if err != nil {
			return
		}
		again, err := ParsePlatform(FormatPlatform(p))
		if err != nil || FormatPlatform(again) != FormatPlatform(p) {
			t.Errorf("%q is %s, and that is %s, %v", text, FormatPlatform(p), FormatPlatform(again), err)
		}
	})
}
