// Package controller lists the control loops of the cluster. Each has a
// directory of its own with the same names inside: Config, New, and a blocking
// Run that leaves nothing running. They speak to the API server through
// client-go only and share one set of informers.
//
// What they have in common: cluster/internal/loop (queue of keys, handlers),
// cluster/internal/pods (questions about pods, indexes of them), internal/expect
// (writes that the informers have not shown yet), internal/claim (adoption and
// release by selector).
package controller

import (
	"context"
	"fmt"
	"log/slog"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"gantry/cluster/controller/deployment"
	"gantry/cluster/controller/endpointslice"
	"gantry/cluster/controller/garbagecollector"
	"gantry/cluster/controller/namespace"
	"gantry/cluster/controller/node"
	"gantry/cluster/controller/podgc"
	"gantry/cluster/controller/replicaset"
	"gantry/cluster/controller/serviceaccount"
)

// Config holds what the control loops need.
type Config struct {
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// Informers are shared by all; the caller starts them after All and before
	// or while the controllers run.
	Informers informers.SharedInformerFactory
	CA        []byte       // PEM certificates that verify the API server, for the pods
	Logger    *slog.Logger // nil discards
}

// Named is a control loop and its name.
type Named struct {
	Name string
	Run  func(ctx context.Context) error // blocks until ctx ends
}

// All returns every control loop, ready to Run, in the order of one change's
// way through the cluster.
func All(cfg Config) ([]Named, error) {
	var all []Named
	var failed error
	add := func(name string, c interface{ Run(context.Context) error }, err error) {
		if err != nil && failed == nil {
			failed = fmt.Errorf("controller %s: %w", name, err)
		}
		if err == nil {
			all = append(all, Named{Name: name, Run: c.Run})
		}
	}
	deployments, err := deployment.New(deployment.Config{Client: cfg.Client, Informers: cfg.Informers, Logger: cfg.Logger})
	add("deployment", deployments, err)
	sets, err := replicaset.New(replicaset.Config{Client: cfg.Client, Informers: cfg.Informers, Logger: cfg.Logger})
	add("replicaset", sets, err)
	slices, err := endpointslice.New(endpointslice.Config{Client: cfg.Client, Informers: cfg.Informers, Logger: cfg.Logger})
	add("endpointslice", slices, err)
	nodes, err := node.New(node.Config{Client: cfg.Client, Informers: cfg.Informers, Logger: cfg.Logger})
	add("node", nodes, err)
	podGC, err := podgc.New(podgc.Config{Client: cfg.Client, Informers: cfg.Informers, Logger: cfg.Logger})
	add("podgc", podGC, err)
	namespaces, err := namespace.New(namespace.Config{Client: cfg.Client, Metadata: cfg.Metadata, Informers: cfg.Informers, Logger: cfg.Logger})
	add("namespace", namespaces, err)
	garbage, err := garbagecollector.New(garbagecollector.Config{Client: cfg.Client, Metadata: cfg.Metadata, Informers: cfg.Informers, Logger: cfg.Logger})
	add("garbagecollector", garbage, err)
	accounts, err := serviceaccount.New(serviceaccount.Config{Client: cfg.Client, Informers: cfg.Informers, CA: cfg.CA, Logger: cfg.Logger})
	add("serviceaccount", accounts, err)
	return all, failed
}
