package dockerapi

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/engine"
	"gantry/internal/problem"
)

func invalid(format string, args ...any) error { return problem.New(problem.Invalid, format, args...) }

// query is the parameters of a request.
type query struct{ url.Values }

func parseQuery(r *http.Request) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, invalid("query: %w", err)
	}
	return query{values}, nil
}

// unknown returns the names of the parameters that say something and are not
// among known ("*": any).
func (q query) unknown(known string) (unknown []string) {
	if known == "*" {
		return nil
	}
	names := strings.Fields(known)
	for name, list := range q.Values {
		if !slices.Contains(names, name) && strings.Join(list, "") != "" {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// bool reads a flag as the reference does: everything but "", "0", "no",
// "false" and "none" is true.
func (q query) bool(name string) bool {
	switch strings.ToLower(strings.TrimSpace(q.Get(name))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// int reads a number; an absent one is 0.
func (q query) int(name string) (int64, error) {
	text := q.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, invalid("invalid value %q for query parameter %s", text, name)
	}
	return n, nil
}

// time reads a point in time; an absent one is the zero time, and 0 the epoch.
func (q query) time(name string) (time.Time, error) {
	text := q.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	return engine.ParseTime(text, time.Now())
}

// refuse refuses the named parameters when they are set.
func (q query) refuse(names ...string) error {
	for _, name := range names {
		switch strings.ToLower(q.Get(name)) {
		case "", "0", "false", "null", "[]", "{}":
		default:
			return problem.New(problem.Unsupported, "query parameter %q is not supported by this version of Gantry", name)
		}
	}
	return nil
}

// filters reads the parameter filters, in the present or the oldest form.
func (q query) filters() (engine.Filters, error) { return parseFilters(q.Get("filters")) }

func parseFilters(text string) (engine.Filters, error) {
	filters := engine.Filters{}
	if text == "" {
		return filters, nil
	}
	var present map[string]map[string]bool
	if err := json.Unmarshal([]byte(text), &present); err == nil {
		for name, values := range present {
			filters[name] = []string{}
			for value, wanted := range values {
				if wanted {
					filters[name] = append(filters[name], value)
				}
			}
			slices.Sort(filters[name])
		}
		return filters, nil
	}
	var old map[string][]string
	if err := json.Unmarshal([]byte(text), &old); err != nil {
		return nil, invalid("invalid filter: %w", err)
	}
	for name, values := range old {
		filters[name] = values
	}
	return filters, nil
}
