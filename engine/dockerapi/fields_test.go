package dockerapi_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	dcontainer "github.com/moby/moby/api/types/container"
	dmount "github.com/moby/moby/api/types/mount"
	dnetwork "github.com/moby/moby/api/types/network"
)

// fieldScene is a container, and what shows inside and outside of it that the
// fields of its request were honoured.
type fieldScene struct {
	name    string
	request string // in which {net} and {dir} are replaced
	probes  []fieldProbe
}

// fieldProbe proves fields of the scene's request.
type fieldProbe struct {
	fields  string // separated by spaces
	command string // for sh in the container; after "docker ", for the client
	want    string // the output, as a regular expression
}

// walkedTypes are all that a creation's request is made of.
var walkedTypes = map[string]reflect.Type{
	"Config": reflect.TypeFor[dcontainer.Config](), "HostConfig": reflect.TypeFor[dcontainer.HostConfig](),
	"NetworkingConfig": reflect.TypeFor[dnetwork.NetworkingConfig](),
}

// fieldNames lists the fields below typ by their paths on the wire, leaves only.
func fieldNames(path string, typ reflect.Type) []string {
	for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map}, typ.Kind()) {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || !strings.HasPrefix(typ.PkgPath(), "github.com/moby/") || typ == reflect.TypeFor[dnetwork.Port]() {
		return []string{path}
	}
	var names []string
	for _, field := range reflect.VisibleFields(typ) {
		if field.Anonymous || !field.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" {
			name = field.Name
		}
		names = append(names, fieldNames(path+"."+name, field.Type)...)
	}
	if len(names) == 0 { // a struct without fields
		return []string{path}
	}
	return names
}

// setFields lists the paths of what a request sets, without the keys of maps and
// lists.
func setFields(path string, typ reflect.Type, value any, into map[string]bool) {
	into[path] = true
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			if typ.Kind() == reflect.Slice {
				setFields(path, typ.Elem(), item, into)
			}
		}
	case map[string]any:
		for name, item := range value {
			if typ.Kind() == reflect.Map {
				setFields(path, typ.Elem(), item, into)
			} else if field, ok := fieldByName(typ, name); ok {
				setFields(path+"."+name, field, item, into)
			}
		}
	}
}

func fieldByName(typ reflect.Type, name string) (reflect.Type, bool) {
	if typ.Kind() != reflect.Struct {
		return nil, false
	}
	for _, field := range reflect.VisibleFields(typ) {
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if tag == name || tag == "" && field.Name == name {
			return field.Type, true
		}
	}
	return nil, false
}

// requestFields lists what the JSON of a creation sets.
func requestFields(t *testing.T, request string) map[string]bool {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(request), &fields); err != nil {
		t.Fatalf("%v: %s", err, request)
	}
	set := map[string]bool{}
	for name, value := range fields {
		if typ, ok := walkedTypes[name]; ok {
			setFields(name, typ, value, set)
		} else if typ, ok := fieldByName(walkedTypes["Config"], name); ok {
			setFields("Config."+name, typ, value, set)
		}
	}
	return set
}

// A field that appears in a newer version of the moby types, and of which nobody
// has decided what becomes of it, fails this test.
func TestEveryFieldOfACreationIsAccountedFor(t *testing.T) {
	known := map[string]bool{}
	for name, typ := range walkedTypes {
		for _, path := range fieldNames(name, typ) {
			known[path] = true
		}
	}
	for _, path := range fieldNames("HostConfig.Mounts", reflect.TypeFor[dmount.Mount]()) {
		if !known[path] {
			t.Errorf("the walk misses %s", path)
		}
	}
	sources := testSources(t)
	covered := map[string]string{}
	cover := func(field, how string) {
		if !known[field] {
			t.Errorf("%s: there is no field %s", how, field)
		}
		covered[field] = how
	}
	for _, s := range fieldScenes {
		set := requestFields(t, s.request)
		for _, p := range s.probes {
			for field := range strings.FieldsSeq(p.fields) {
				cover(field, "scene "+s.name)
				if !set[field] {
					t.Errorf("scene %s probes %s and does not set it", s.name, field)
				}
			}
		}
	}
	for _, r := range refusedFields {
		cover(r.field, "refused")
		if !requestFields(t, r.request)[r.field] {
			t.Errorf("the refused request does not set %s: %s", r.field, r.request)
		}
	}
	for fields, test := range fieldsTestedElsewhere {
		for field := range strings.FieldsSeq(fields) {
			cover(field, test)
		}
		if !strings.Contains(sources, "func "+test+"(") {
			t.Errorf("%s names the test %s, which does not exist", fields, test)
		}
	}
	for field := range fieldsIgnoredAsByTheReference {
		cover(field, "ignored")
	}
	for _, field := range slices.Sorted(maps.Keys(known)) {
		if covered[field] == "" {
			t.Errorf("nobody says what becomes of %s", field)
		}
	}
}

// testSources is the text of the tests of the engine and its API.
func testSources(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, dir := range []string{".", ".."} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), "_test.go") {
				text.WriteString(read(t, dir+"/"+entry.Name()))
			}
		}
	}
	return text.String()
}

func TestFieldsOfACreation(t *testing.T) {
	d := newDaemon(t)
	dir := t.TempDir()
	write(t, dir+"/f", "bound\n")
	d.do("network", "create", "--subnet", "10.91.0.0/24", "--ipv6", "--subnet", "fd00:91::/64", "fields")
	d.do("run", "-d", "--name", "donor", "-v", "given:/given", "--network", "fields", "busybox", "sleep", "600")
	for _, s := range fieldScenes {
		t.Run(s.name, func(t *testing.T) {
			request := strings.ReplaceAll(s.request, "{dir}", dir)
			status, _, body := d.request("POST", "/containers/create?name="+s.name, request)
			if status != 201 {
				t.Fatalf("create: %d %s", status, body)
			}
			d.do("start", s.name)
			for _, p := range s.probes {
				args := []string{"exec", "-u", "0", s.name, "sh", "-c", p.command + " 2>&1"}
				if client, ok := strings.CutPrefix(p.command, "docker "); ok {
					args = strings.Fields(client)
				}
				out := d.try(args...)
				want := hostNamespaces.ReplaceAllStringFunc(p.want, func(name string) string {
					link, err := os.Readlink("/proc/self/ns/" + strings.Trim(name, "{}"))
					if err != nil {
						t.Fatal(err)
					}
					return regexp.QuoteMeta(link)
				})
				got := strings.TrimSpace(out.out)
				if ok, err := regexp.MatchString("(?s)^(?:"+want+")$", got); !ok || err != nil {
					t.Errorf("%s: %s: %q %s, want %q", p.fields, p.command, got, out.err, want)
				}
			}
			d.do("rm", "-f", "-v", s.name)
		})
	}
}

var hostNamespaces = regexp.MustCompile(`\{(pid|ipc|uts|net|user|cgroup)\}`)

func TestRefusedFieldsOfACreation(t *testing.T) {
	d := newDaemon(t)
	for i, r := range refusedFields {
		name := fmt.Sprintf("refused%d", i)
		status, _, body := d.request("POST", "/containers/create?name="+name, r.request)
		if status == 201 && r.atStart {
			status, _, body = d.request("POST", "/containers/"+name+"/start", "")
		}
		if status < 400 || !strings.Contains(body, r.want) {
			t.Errorf("%s: %d %s, want %q", r.request, status, body, r.want)
		}
	}
}
