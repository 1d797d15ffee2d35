package registry

import (
	"net/url"
	"strings"
)

// nextLink returns where the next page of an answer is, or nil when there is
// none (RFC 5988; spec, "Listing Tags"). base is what the answer is to; a page
// elsewhere than there is not followed.
func nextLink(base *url.URL, headers []string) *url.URL {
	for _, h := range headers {
		for h != "" {
			start := strings.IndexByte(h, '<')
			end := strings.IndexByte(h, '>')
			if start < 0 || end < start {
				break
			}
			target := h[start+1 : end]
			params := h[end+1:]
			h = ""
			if next := strings.IndexByte(params, '<'); next >= 0 {
				h, params = params[next:], params[:next]
			}
			if !isNext(params) {
				continue
			}
			u, err := base.Parse(target)
			if err != nil || u.Scheme != base.Scheme || u.Host != base.Host {
				return nil
			}
			return u
		}
	}
	return nil
}

func isNext(params string) bool {
	for p := range strings.FieldsFuncSeq(params, func(r rune) bool { return r == ';' || r == ',' }) {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(strings.TrimSpace(name), "rel") && strings.Trim(strings.TrimSpace(value), `"`) == "next" {
			return true
		}
	}
	return false
}
