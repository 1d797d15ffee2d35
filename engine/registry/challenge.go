package registry

import "strings"

// challenge is one challenge of a WWW-Authenticate header (RFC 9110, section
// 11.6.1). Scheme and the names of parameters are in lower case.
type challenge struct {
	scheme string
	params map[string]string
}

// parseChallenges reads all headers of a response. What cannot be read ends the
// header it is in.
func parseChallenges(headers []string) []challenge {
	var list []challenge
	for _, h := range headers {
		list = append(list, parseChallenge(h)...)
	}
	return list
}

func parseChallenge(s string) []challenge {
	var list []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := token(s)
		if word == "" {
			return list
		}
		s = rest
		after := strings.TrimLeft(s, " \t")
		if len(list) > 0 && strings.HasPrefix(after, "=") {
			value, rest, ok := paramValue(strings.TrimLeft(after[1:], " \t"))
			if !ok {
				return list
			}
			list[len(list)-1].params[strings.ToLower(word)] = value
			s = rest
			continue
		}
		if s != "" && s[0] != ' ' && s[0] != '\t' && s[0] != ',' {
			return list
		}
		list = append(list, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
	}
}

// token takes a token (RFC 9110, section 5.6.2) off s.
func token(s string) (word, rest string) {
	i := 0
	for i < len(s) && isTokenByte(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func isTokenByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
}

// paramValue takes a token or a quoted string off s.
func paramValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = token(s)
		return value, rest, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case '"':
			return b.String(), s[i+1:], true
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}
