package registry

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"unicode"
)

// maxWarnings bounds what is told of one registry's warnings, in bytes (spec,
// "Warnings").
const maxWarnings = 4096

// warnings tells each warning of registries once. Nothing else is done about
// them.
type warnings struct {
	tell func(Event)

	mu   sync.Mutex
	told map[string]bool
	size int
}

// note passes on what an answer warns of. w may be nil.
func (w *warnings) note(host string, h http.Header) {
	if w == nil {
		return
	}
	for _, text := range parseWarnings(h.Values("Warning")) {
		w.mu.Lock()
		known := w.told[text] || w.size+len(text) > maxWarnings
		if !known {
			if w.told == nil {
				w.told = map[string]bool{}
			}
			w.told[text] = true
			w.size += len(text)
		}
		w.mu.Unlock()
		if !known {
			w.tell(Event{Status: fmt.Sprintf("WARNING: registry %s says: %s", host, text)})
		}
	}
}

// parseWarnings reads the texts of headers like `299 - "text"`, with nothing in
// them that a terminal would act on.
func parseWarnings(headers []string) (texts []string) {
	for _, h := range headers {
		for {
			rest, ok := strings.CutPrefix(strings.TrimLeft(h, " \t,"), `299 - "`)
			if !ok {
				break
			}
			text, after, ok := paramValue(`"` + rest)
			if !ok {
				break
			}
			text = strings.TrimSpace(strings.Map(func(r rune) rune {
				if unicode.IsPrint(r) {
					return r
				}
				return ' '
			}, text))
			if text != "" {
				texts = append(texts, text)
			}
			h = after
		}
	}
	return texts
}
