package plan

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container/cgroup"
	"gantry/engine/container/program"
)

// FuzzSpec reads any bytes as a bundle's config.json: it is refused, or becomes a
// program that loads.
func FuzzSpec(f *testing.F) {
	for _, text := range []string{
		`{"ociVersion":"1.2.0","process":{"args":["sh"],"cwd":"/","env":["A=b"],"user":{"uid":1,"additionalGids":[2]},"capabilities":{"bounding":["CAP_KILL"]},
		  "rlimits":[{"type":"RLIMIT_NOFILE","hard":1,"soft":1}],"oomScoreAdj":3,"noNewPrivileges":true,"scheduler":{"policy":"SCHED_OTHER","nice":1},"ioPriority":{"class":"IOPRIO_CLASS_IDLE"}},
		  "root":{"path":"/r","readonly":true},"hostname":"h","mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/m","source":"/s","options":["rbind","rro","mode=755"]},{"destination":"/sys/fs/cgroup","type":"cgroup"}],
		  "linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"uts"},{"type":"network","path":"/n"}],"devices":[{"path":"/dev/x","type":"c","major":1,"minor":3}],
		  "sysctl":{"net.a":"1"},"maskedPaths":["/proc/x"],"readonlyPaths":["/proc/y"],"rootfsPropagation":"slave"}}`,
		`{"process":{"args":["x"],"terminal":true,"consoleSize":{"height":1,"width":2}},"root":{"path":"/r"},"linux":{"namespaces":[{"type":"mount"},{"type":"user"},{"type":"time"}],
		  "uidMappings":[{"hostID":1,"size":1}],"gidMappings":[{"size":1}],"timeOffsets":{"boottime":{"secs":1}},"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0-3"},"personality":{"domain":"LINUX32"}}}`,
		`{"process":{},"root":null,"linux":{"resources":{"devices":[{"allow":true,"type":"c"}],"memory":{"limit":1}}}}`,
	} {
		f.Add([]byte(text))
	}
	host, err := cgroup.Detect()
	if err != nil {
		f.Skip(err)
	}
	limits, err := ReadLimits()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var o specs.Spec
		if json.Unmarshal(data, &o) != nil || Validate(&o) != nil || o.Root == nil {
			return
		}
		if _, err := host.Resources(o.Linux.Resources); err != nil {
			return
		}
		for _, direct := range []*Direct{nil, {Fifo: "/fifo"}} {
			p := New(Config{Limits: limits, Host: host, Group: host.Group("/fuzz"), MountAt: "/at", Empty: "/empty", Direct: direct})
			process, err := p.Container(&o, nil)
			if err != nil {
				continue
			}
			if _, ok := program.Load(&process.Program); !ok {
				t.Errorf("%s: the program does not load", data)
			}
		}
	})
}
