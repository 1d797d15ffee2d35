// Command gantry-kubectl is the stock kubectl, built from its own packages, for
// hosts that have none installed. It speaks to the local instance's cluster
// unless a kubeconfig is named by --kubeconfig or KUBECONFIG.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	"gantry/internal/instance"
)

func main() {
	if os.Getenv("KUBECONFIG") == "" {
		if c, _, err := instance.Find(os.Getenv("GANTRY_INSTANCE")); err == nil {
			_ = os.Setenv("KUBECONFIG", c.Kubeconfig()) // fails for malformed names only
		}
	}
	_, _ = logs.GlogSetter(cmd.GetLogVerbosity(os.Args)) // a bad level is reported when the flags are parsed
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
