// Package dockerapi serves the Docker Engine REST API over package engine.
//
// It translates: paths, queries, JSON and streams on one side, calls of engine,
// image, builder, network and volume on the other. It keeps no state but what a
// connection needs, and decides nothing about containers.
//
// Every route is a row in one table (routes.go) and every kind of error gets its
// status in one other (errors.go). What a request asks for and Gantry does not
// do is refused by name. What the reference does not know either is ignored, as
// there, and told: in the log, and in the warnings of a creation.
//
// Goroutines live no longer than the request which started them.
package dockerapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"gantry/engine"
	"gantry/engine/builder"
	"gantry/engine/image"
	"gantry/engine/network"
	"gantry/engine/registry"
	"gantry/engine/volume"
	"gantry/internal/problem"
)

// The API versions that are spoken. The newest is that of the moby types.
const (
	maxVersion = "1.56"
	minVersion = "1.24"
)

// Config is what the API serves.
type Config struct {
	Engine   *engine.Engine
	Images   *image.Store
	Builder  *builder.Builder // nil: builds are refused
	Registry *registry.Client // nil: pulls and pushes are refused
	Networks *network.Host
	Volumes  *volume.Store
	Version  string       // of Gantry, for version and info
	DataDir  string       // for info
	Logger   *slog.Logger // nil discards
}

// Handler serves the API.
type Handler struct {
	cfg    Config
	log    *slog.Logger
	builds runningBuilds
}

// New returns the handler of the API.
func New(cfg Config) *Handler {
	h := &Handler{cfg: cfg, log: cfg.Logger}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.cfg.Version == "" {
		h.cfg.Version = "dev"
	}
	return h
}

// version is an API version, comparable by its parts.
type version struct{ major, minor int }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

// less tells whether v is older than major.minor.
func (v version) less(major, minor int) bool {
	return v.major < major || v.major == major && v.minor < minor
}

func mustVersion(text string) version {
	v, ok := parseVersion(text)
	if !ok {
		panic("bad API version " + text)
	}
	return v
}

func parseVersion(text string) (version, bool) {
	major, minor, hasMinor := strings.Cut(text, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := 0, error(nil)
	if hasMinor {
		b, err2 = strconv.Atoi(minor)
	}
	return version{a, b}, err1 == nil && err2 == nil && a >= 0 && b >= 0
}

var versionPrefix = regexp.MustCompile(`^/v([0-9.]+)(/.*)$`)

// splitVersion takes the API version off a path. A path without one means the
// newest.
func splitVersion(path string) (version, string, error) {
	newest, oldest := mustVersion(maxVersion), mustVersion(minVersion)
	match := versionPrefix.FindStringSubmatch(path)
	if match == nil {
		return newest, path, nil
	}
	v, ok := parseVersion(match[1])
	switch {
	case !ok:
		return newest, match[2], problem.New(problem.Invalid, "invalid API version %s", match[1])
	case newest.less(v.major, v.minor):
		return newest, match[2], problem.New(problem.Invalid, "client version %s is too new. Maximum supported API version is %s", v, maxVersion)
	case v.less(oldest.major, oldest.minor):
		return newest, match[2], problem.New(problem.Invalid, "client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", v, minVersion)
	}
	return v, match[2], nil
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	v, path, err := splitVersion(r.URL.Path)
	found, vars := match(r.Method, path)
	if found == nil { // also a known path with another method
		h.fail(w, r, problem.New(problem.NotFound, "page not found"))
		return
	}
	header.Set("Api-Version", maxVersion)
	header.Set("Ostype", "linux")
	header.Set("Server", "Docker/"+h.cfg.Version+" (linux)")
	if err != nil {
		h.fail(w, r, err)
		return
	}
	header.Set("Docker-Experimental", "false")
	c := &call{Handler: h, w: w, r: r, version: v, vars: vars}
	if c.query, err = parseQuery(r); err == nil {
		// As in the reference. Stock clients send what no server ever knew.
		for _, name := range c.query.unknown(found.query) {
			h.log.Debug("unknown query parameter ignored", "path", path, "key", name)
		}
		err = found.serve(c)
	}
	if err != nil {
		h.failCall(c, err)
	}
}

// call is one request being served.
type call struct {
	*Handler
	w       http.ResponseWriter
	r       *http.Request
	version version
	vars    []string // what the wildcards of the route's pattern matched
	query   query
	begun   bool // the status has been written
}
