package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gantry/internal/control"
	"gantry/internal/problem"
	"gantry/push"
	"gantry/push/docker"
	"gantry/push/kube"
)

func statusCommand() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the server, the node, the apps, their addresses, memory and disk",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := found(cmd)
			if err != nil {
				return err
			}
			client, status, err := running(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if address != "" {
				return printAddress(cmd.Context(), status, address)
			}
			if err := printServer(cmd.Context(), client, status); err != nil {
				return err
			}
			if status.API == "" || status.Phase != control.Running {
				return nil
			}
			return printApps(cmd.Context(), status)
		},
	}
	cmd.Flags().StringVar(&address, "address", "", "print the URL of this app alone, for scripts")
	return cmd
}

func printAddress(ctx context.Context, status control.Status, app string) error {
	api, err := cluster(status)
	if err != nil {
		return err
	}
	var ingresses kube.List[kube.Ingress]
	if err := api.Get(ctx, kube.Ingresses.In(push.Namespace), &ingresses); err != nil {
		return err
	}
	urls := appAddresses(kube.Meta{Name: app, Namespace: push.Namespace}, ingresses.Items, status.HTTP)
	if urls == "-" {
		return &problem.UserError{Op: "status", Object: app, Err: problem.New(problem.NotFound, "no app of this name has an address"), Try: "see \"gantry status\""}
	}
	fmt.Println(urls)
	return nil
}

func printServer(ctx context.Context, client *control.Client, status control.Status) error {
	usage, err := client.Usage(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%s %s is %s (pid %d, for %s)\n", status.Instance.Name, status.Version, status.Phase, status.PID, age(time.Since(status.Since)))
	row := func(name, format string, args ...any) { fmt.Printf("  %-8s %s\n", name, fmt.Sprintf(format, args...)) }
	row("memory", "%s", push.Bytes(usage.PSSBytes))
	least := ""
	if usage.DiskPartial {
		least = "at least "
	}
	row("disk", "%s%s below %s, %s free", least, push.Bytes(usage.DiskBytes), status.Instance.DataDir, push.Bytes(usage.DiskFreeBytes))
	engine, err := docker.New(status.Instance.DockerSocket()).Info(ctx)
	if err == nil {
		row("docker", "unix://%s (%d containers running, %d images)", status.Instance.DockerSocket(), engine.ContainersRunning, engine.Images)
	} else {
		row("docker", "%v", err)
	}
	if status.API != "" {
		row("cluster", "https://%s (KUBECONFIG=%s)", status.API, status.Instance.Kubeconfig())
	}
	if status.HTTP != "" {
		row("ingress", "%s", status.HTTP)
	}
	for _, note := range status.Notes {
		row("note", "%s", note)
	}
	return nil
}

func printApps(ctx context.Context, status control.Status) error {
	api, err := cluster(status)
	if err != nil {
		return err
	}
	var nodes kube.List[kube.Node]
	if err := api.Get(ctx, "/api/v1/nodes", &nodes); err != nil {
		return err
	}
	for _, n := range nodes.Items {
		fmt.Printf("  %-8s %s (%s)\n", "node", n.Metadata.Name, readiness(n))
	}
	var deployments kube.List[kube.Deployment]
	if err := api.Get(ctx, "/apis/apps/v1/deployments", &deployments); err != nil {
		return err
	}
	var ingresses kube.List[kube.Ingress]
	if err := api.Get(ctx, "/apis/networking.k8s.io/v1/ingresses", &ingresses); err != nil {
		return err
	}
	if len(deployments.Items) == 0 {
		fmt.Println("\nno apps yet; try: gantry push DIR")
		return nil
	}
	fmt.Println()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "APP\tREADY\tIMAGE\tAGE\tADDRESS")
	for _, d := range deployments.Items {
		fmt.Fprintln(table, strings.Join(appRow(d, ingresses.Items, status.HTTP, time.Now()), "\t"))
	}
	return table.Flush()
}

func readiness(n kube.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return "Ready"
		}
		if c.Type == "Ready" {
			return "NotReady: " + c.Message
		}
	}
	return "starting"
}

// appRow is the line of one app.
func appRow(d kube.Deployment, ingresses []kube.Ingress, ingress string, now time.Time) []string {
	name := d.Metadata.Name
	if d.Metadata.Namespace != push.Namespace {
		name = d.Metadata.Namespace + "/" + name
	}
	var want, ready int32
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	if d.Status != nil {
		ready = d.Status.ReadyReplicas
	}
	var images []string
	for _, c := range d.Spec.Template.Spec.Containers {
		images = append(images, c.Image)
	}
	old := "-"
	if d.Metadata.CreationTimestamp != nil {
		old = age(now.Sub(*d.Metadata.CreationTimestamp))
	}
	addresses := appAddresses(d.Metadata, ingresses, ingress)
	return []string{name, fmt.Sprintf("%d/%d", ready, want), strings.Join(images, ","), old, addresses}
}

// appAddresses are the URLs of the ingress rules that lead to the Service of
// the app's name.
func appAddresses(app kube.Meta, ingresses []kube.Ingress, listen string) string {
	var urls []string
	for _, in := range ingresses {
		if in.Metadata.Namespace != app.Namespace {
			continue
		}
		for _, rule := range in.Spec.Rules {
			if rule.HTTP == nil {
				continue
			}
			for _, path := range rule.HTTP.Paths {
				if path.Backend.Service == nil || path.Backend.Service.Name != app.Name {
					continue
				}
				url := "http://" + withPort(rule.Host, listen) + path.Path
				if !slices.Contains(urls, url) {
					urls = append(urls, url)
				}
			}
		}
	}
	if len(urls) == 0 {
		return "-"
	}
	return strings.Join(urls, " ")
}

func withPort(host, listen string) string {
	if host == "" {
		host = "localhost"
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil || port == "80" {
		return host
	}
	return net.JoinHostPort(host, port)
}

// age writes a duration as kubectl does, in its largest unit or two.
func age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
