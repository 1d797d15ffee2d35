package cri

import (
	"errors"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/engine/internal/apparmor"
	"gantry/internal/problem"
)

func TestAppArmorProfileOfAPod(t *testing.T) {
	none, full := apparmor.Support{}, apparmor.Support{Enabled: true, Default: true}
	typed := func(kind runtimeapi.SecurityProfile_ProfileType, name string) *runtimeapi.LinuxContainerSecurityContext {
		return &runtimeapi.LinuxContainerSecurityContext{Apparmor: &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: name}}
	}
	const runtimeDefault, unconfined, localhost = runtimeapi.SecurityProfile_RuntimeDefault, runtimeapi.SecurityProfile_Unconfined, runtimeapi.SecurityProfile_Localhost
	for name, c := range map[string]struct {
		sc   *runtimeapi.LinuxContainerSecurityContext
		host apparmor.Support
		want string
		err  error
	}{
		"no security context":           {nil, full, "", nil},
		"nothing asked for":             {&runtimeapi.LinuxContainerSecurityContext{}, full, "", nil},
		"the runtime's default":         {typed(runtimeDefault, ""), full, "", nil},
		"the default, without AppArmor": {typed(runtimeDefault, ""), none, "", nil},
		"unconfined":                    {typed(unconfined, ""), full, "apparmor=unconfined", nil},
		"unconfined, without AppArmor":  {typed(unconfined, ""), none, "apparmor=unconfined", nil},
		"by name":                       {typed(localhost, "mine"), full, "apparmor=mine", nil},
		"by name, with a prefix":        {typed(localhost, "localhost/mine"), full, "apparmor=mine", nil},
		"by name, without AppArmor":     {typed(localhost, "mine"), none, "", problem.Unsupported},
		"by no name":                    {typed(localhost, ""), full, "", problem.Invalid},
	} {
		got, err := appArmor(c.sc, c.host)
		if strings.Join(got, " ") != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v; want %q, %v", name, got, err, c.want, c.err)
		}
	}
}
