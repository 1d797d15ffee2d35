package engine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"

	"gantry/engine/container"
)

// LogDrivers are the names of the drivers that a container may ask for. All but
// "none" keep what the container prints in files of json-file's format, which
// Logs reads; "local" differs in what it may be asked for, "journald" and "syslog"
// send it on from there.
var LogDrivers = []string{"journald", "json-file", "local", "none", "syslog"}

// logOptions are the options that each driver takes. mode and max-buffer-size
// are every driver's.
var logOptions = map[string][]string{
	"json-file": {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"},
	"local":     {"max-size", "max-file", "compress"},
	"none":      nil,
	"journald":  append([]string{"labels", "labels-regex", "env", "env-regex", "tag"}, cacheOptions...),
	"syslog": append([]string{"labels", "labels-regex", "env", "env-regex", "tag", "syslog-address", "syslog-facility", "syslog-format",
		"syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"}, cacheOptions...),
}

// cacheOptions are those of the files that drivers keep which send the log on.
var cacheOptions = []string{"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}

// Bounds of a log whose options name none: 100 MB a container.
const (
	logFileBytes   = 20 << 20
	logFiles       = 5
	logBufferBytes = 1 << 20 // with mode=non-blocking
)

// fillLog makes c what the daemon's defaults say where it says nothing. Default
// options are of the default driver alone.
func (e *Engine) fillLog(c dcontainer.LogConfig) dcontainer.LogConfig {
	if c.Type == "" {
		c.Type = e.LogDriver()
	}
	if c.Type == e.LogDriver() && len(e.cfg.LogOptions) > 0 {
		filled := maps.Clone(e.cfg.LogOptions)
		maps.Copy(filled, c.Config)
		c.Config = filled
	}
	return c
}

// LogDriver is the driver of containers that name none.
func (e *Engine) LogDriver() string {
	if e.cfg.LogDriver == "" {
		return "json-file"
	}
	return e.cfg.LogDriver
}

func validateLog(h *dcontainer.HostConfig) error {
	if err := CheckLog(h.LogConfig); err != nil {
		return err
	}
	return checkSocket(h.LogConfig)
}

// CheckLog refuses a driver or an option that there is not. Errors: Invalid.
func CheckLog(c dcontainer.LogConfig) error {
	name := c.Type
	if name == "" {
		name = "json-file"
	}
	known, ok := logOptions[name]
	if !ok {
		return invalid("logger: no log driver named '%s' is registered", name)
	}
	if name == "none" {
		return nil // as in the reference, whose none ignores its options
	}
	switch c.Config["mode"] {
	case "", "blocking", "non-blocking":
	default:
		return invalid("logger: logging mode not supported: %s", c.Config["mode"])
	}
	for _, option := range slices.Sorted(maps.Keys(c.Config)) {
		if option == "mode" || option == "max-buffer-size" {
			continue
		}
		if !slices.Contains(known, option) && name != "local" {
			return invalid("unknown log opt '%s' for %s log driver", option, name)
		}
		if !slices.Contains(known, option) {
			return invalid("unknown log opt '%s' for log driver %s", option, name)
		}
	}
	if _, err := parseLog(c); err != nil {
		return err
	}
	if err := checkSink(c); err != nil {
		return err
	}
	_, err := logTag(c.Config["tag"], nil)
	return err
}

// logBounds is what a log's options say of its files and its buffer.
type logBounds struct {
	bytes    int64
	files    int
	compress bool
	buffer   int64
}

// parseLog reads the options of a log; what is open is bounded.
func parseLog(c dcontainer.LogConfig) (b logBounds, err error) {
	b = logBounds{bytes: logFileBytes, files: logFiles}
	size, prefix := units.FromHumanSize, ""
	switch c.Type {
	case "local":
		size = units.RAMInBytes
	case "journald", "syslog":
		size, prefix = units.RAMInBytes, "cache-"
		if disabled, err := strconv.ParseBool(cmp.Or(c.Config["cache-disabled"], "false")); err != nil {
			return b, invalid("%w", err)
		} else if disabled {
			return b, unsupported("the log option cache-disabled")
		}
	}
	if text, ok := c.Config[prefix+"max-size"]; ok {
		if b.bytes, err = size(text); err != nil {
			return b, invalid("%w", err)
		}
		if b.bytes <= 0 {
			return b, invalid("max-size must be a positive number")
		}
	}
	if text, ok := c.Config[prefix+"max-file"]; ok {
		if b.files, err = strconv.Atoi(text); err != nil {
			return b, invalid("%w", err)
		}
		if b.files < 1 {
			return b, invalid("max-file cannot be less than 1")
		}
	}
	b.compress = b.files > 1
	if text, ok := c.Config[prefix+"compress"]; ok {
		if b.compress, err = strconv.ParseBool(text); err != nil {
			return b, invalid("%w", err)
		}
		if b.compress && b.files < 2 {
			return b, invalid("compress cannot be true when max-file is less than 2 or max-size is not set")
		}
	}
	nonBlocking := c.Config["mode"] == "non-blocking"
	if nonBlocking {
		b.buffer = logBufferBytes
	}
	if text, ok := c.Config["max-buffer-size"]; ok {
		if !nonBlocking {
			return b, invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
		}
		if b.buffer, err = units.RAMInBytes(text); err != nil {
			return b, invalid("error parsing option max-buffer-size: %w", err)
		}
		b.buffer = max(b.buffer, 1)
	}
	return b, checkLogPatterns(c)
}

func checkLogPatterns(c dcontainer.LogConfig) error {
	for _, option := range []string{"labels-regex", "env-regex"} {
		if _, err := regexp.Compile(c.Config[option]); err != nil {
			return invalid("%w", err)
		}
	}
	return nil
}

// logOf is where and how the container's output is kept. imageName is what the
// container was asked to be made of.
func logOf(cfg *config) (container.Log, error) {
	log := container.Log{Format: cfg.LogFormat, Path: cfg.LogPath}
	switch cfg.LogFormat {
	case container.LogNone:
		return log, nil
	case container.LogCRI:
		log.MaxBytes = -1 // the kubelet rotates
		return log, nil
	}
	bounds, err := parseLog(cfg.HostConfig.LogConfig)
	if err != nil {
		return log, err
	}
	log.MaxBytes, log.MaxFiles, log.Buffer = bounds.bytes, bounds.files, bounds.buffer
	if cfg.forwards() {
		return log, nil // the service gets the attributes
	}
	attrs, err := logAttributes(cfg)
	if err == nil && len(attrs) > 0 {
		var data []byte
		data, err = json.Marshal(attrs)
		log.Attrs = string(data)
	}
	return log, err
}

// logAttributes are the labels, variables and tag that each entry carries.
func logAttributes(cfg *config) (map[string]string, error) {
	options := cfg.HostConfig.LogConfig.Config
	env := map[string]string{}
	for _, assignment := range cfg.Config.Env {
		if name, value, ok := strings.Cut(assignment, "="); ok {
			env[name] = value
		}
	}
	attrs := map[string]string{}
	for option, from := range map[string]map[string]string{"labels": cfg.Config.Labels, "env": env} {
		for name := range strings.SplitSeq(options[option], ",") {
			if value, ok := from[name]; ok {
				attrs[name] = value
			}
		}
		if options[option+"-regex"] == "" {
			continue
		}
		pattern, err := regexp.Compile(options[option+"-regex"])
		if err != nil {
			return nil, invalid("%w", err)
		}
		for name, value := range from {
			if pattern.MatchString(name) {
				attrs[name] = value
			}
		}
	}
	tag, err := logTag(options["tag"], cfg)
	if tag != "" {
		attrs["tag"] = tag
	}
	return attrs, err
}

var tagField = regexp.MustCompile(`{{\s*\.(\w+)\s*}}`)

// logTag fills a tag's fields; without a configuration it only looks whether
// there are such fields.
func logTag(tag string, cfg *config) (string, error) {
	var unknown error
	filled := tagField.ReplaceAllStringFunc(tag, func(field string) string {
		name := tagField.FindStringSubmatch(field)[1]
		value, ok := logField(name, cfg)
		if !ok {
			unknown = invalid("template: log-tag: can't evaluate field %s", name)
		}
		return value
	})
	if strings.Contains(tagField.ReplaceAllString(tag, ""), "{{") {
		return "", invalid("log opt tag %q: only fields such as {{.Name}} are supported by this version of Gantry", tag)
	}
	return filled, unknown
}

func logField(name string, cfg *config) (string, bool) {
	known := slices.Contains([]string{"ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName"}, name)
	if !known || cfg == nil {
		return "", known
	}
	return map[string]string{
		"ID": cfg.ID[:12], "FullID": cfg.ID, "Name": cfg.Name,
		"ImageID": shortDigest(cfg.Image), "ImageFullID": cfg.Image.String(), "ImageName": cfg.Config.Image,
		"DaemonName": "docker",
	}[name], true
}

func shortDigest(d digest.Digest) string {
	if d.Validate() != nil {
		return fmt.Sprintf("%.12s", d)
	}
	return d.Encoded()[:12]
}
