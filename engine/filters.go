package engine

import (
	"regexp"
	"slices"
	"strings"

	devents "github.com/moby/moby/api/types/events"

	"gantry/internal/problem"
)

// Check returns an error of kind Invalid, in the reference's words, if f has a
// filter which is not among known.
func (f Filters) Check(known ...string) error {
	for name := range f {
		if !slices.Contains(known, name) {
			return problem.New(problem.Invalid, "invalid filter '%s'", name)
		}
	}
	return nil
}

// exact tells whether value is among those wanted, or none is wanted.
func (f Filters) exact(name, value string) bool {
	wanted, ok := f[name]
	return !ok || len(wanted) == 0 || slices.Contains(wanted, value)
}

// any tells whether match holds for one of the wanted values, or none is wanted.
func (f Filters) any(name string, match func(string) bool) bool {
	wanted, ok := f[name]
	return !ok || len(wanted) == 0 || slices.ContainsFunc(wanted, match)
}

// Labels tells whether labels has every label that the filter name wants, as
// KEY or KEY=VALUE.
func (f Filters) Labels(name string, labels map[string]string) bool {
	for _, want := range f[name] {
		key, value, hasValue := strings.Cut(want, "=")
		got, ok := labels[key]
		if !ok || hasValue && got != value {
			return false
		}
	}
	return true
}

// Bool returns the value of a boolean filter and whether it is there.
func (f Filters) Bool(name string) (value, present bool, err error) {
	for _, v := range f[name] {
		switch strings.ToLower(v) {
		case "1", "true":
			value = true
		case "0", "false":
		default:
			return false, true, problem.New(problem.Invalid, "invalid filter '%s=%v'", name, f[name])
		}
		present = true
	}
	return value, present, nil
}

// eventFilters are the filters that Events knows.
var eventFilters = []string{
	"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope",
	"secret", "service", "type", "volume",
}

// CheckEventFilters refuses a filter that Events does not know.
func CheckEventFilters(f Filters) error { return f.Check(eventFilters...) }

func eventMatches(f Filters, ev Event) bool {
	object := func(name string, kind devents.Type) bool {
		wanted, ok := f[name]
		if !ok || len(wanted) == 0 {
			return true
		}
		return ev.Type == kind && slices.ContainsFunc(wanted, func(want string) bool {
			return want != "" && (strings.HasPrefix(ev.Actor.ID, want) || ev.Actor.Attributes["name"] == want)
		})
	}
	action := func(want string) bool {
		// "health_status: healthy" is found by "health_status" too.
		return want == string(ev.Action) || strings.HasPrefix(string(ev.Action), want+":")
	}
	return f.any("event", action) &&
		f.exact("type", string(ev.Type)) &&
		f.exact("scope", ev.Scope) &&
		f.Labels("label", ev.Actor.Attributes) &&
		object("container", devents.ContainerEventType) &&
		object("daemon", devents.DaemonEventType) &&
		object("network", devents.NetworkEventType) &&
		object("volume", devents.VolumeEventType) &&
		object("config", devents.ConfigEventType) && object("node", devents.NodeEventType) &&
		object("plugin", devents.PluginEventType) && object("secret", devents.SecretEventType) &&
		object("service", devents.ServiceEventType) &&
		imageMatches(f, ev)
}

// imageMatches holds for events of an image and of containers made from it.
func imageMatches(f Filters, ev Event) bool {
	return f.any("image", func(want string) bool {
		bare := func(ref string) string {
			at := strings.LastIndexByte(ref, ':')
			if at <= strings.LastIndexByte(ref, '/') {
				return ref
			}
			return ref[:at]
		}
		switch ev.Type {
		case devents.ImageEventType:
			name := ev.Actor.Attributes["name"]
			return want == ev.Actor.ID || want == name || want == bare(name)
		case devents.ContainerEventType:
			name := ev.Actor.Attributes["image"]
			return want == name || want == bare(name)
		}
		return false
	})
}

// matchesName tells whether a container's name contains what want, a regular
// expression, describes.
func matchesName(name, want string) bool {
	if name == strings.TrimPrefix(want, "/") {
		return true
	}
	re, err := regexp.Compile(want)
	return err == nil && (re.MatchString(name) || re.MatchString("/"+name))
}
