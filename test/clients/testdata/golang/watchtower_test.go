package golang

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// TestRecreatedFromItsInspection replaces a container as Watchtower does: what
// inspect says of the old one makes the new one, on one network, from which it is
// taken again before all are connected.
func TestRecreatedFromItsInspection(t *testing.T) {
	api, ctx := daemon(t), bounded(t)
	for _, name := range []string{"one", "two"} {
		made, err := api.NetworkCreate(ctx, name, client.NetworkCreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, err := api.NetworkRemove(context.Background(), made.ID, client.NetworkRemoveOptions{})
			equal(t, "remove the network", err, nil)
		})
	}
	created, err := api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &container.Config{
			Image: "busybox", Cmd: []string{"sleep", "1000"}, Env: []string{"A=b"}, Labels: map[string]string{"x": "y"}, StopSignal: "SIGKILL",
			ExposedPorts: network.PortSet{network.MustParsePort("80/tcp"): {}},
		},
		HostConfig: &container.HostConfig{
			Binds: []string{"/etc:/host:ro"}, PortBindings: network.PortMap{network.MustParsePort("80/tcp"): {{}}},
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
			Resources:     container.Resources{Memory: 64 << 20, Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 99, Hard: 100}}},
			CapAdd:        []string{"NET_ADMIN"}, ReadonlyRootfs: true, NetworkMode: "one",
		},
		NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"one": {Aliases: []string{"alias"}}, "two": {}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, api, created.ID)
	before := inspect(t, api, created.ID)
	_, err = api.ContainerRemove(ctx, created.ID, client.ContainerRemoveOptions{Force: true})
	equal(t, "remove the old one", err, nil)

	first := map[string]*network.EndpointSettings{"one": before.NetworkSettings.Networks["one"]}
	again, err := api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name: before.Name, Config: before.Config, HostConfig: before.HostConfig, NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: first},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := api.ContainerRemove(context.Background(), again.ID, client.ContainerRemoveOptions{Force: true})
		equal(t, "remove the new one", err, nil)
	})
	_, err = api.NetworkDisconnect(ctx, "one", client.NetworkDisconnectOptions{Container: again.ID, Force: true})
	equal(t, "disconnect", err, nil)
	for name, settings := range before.NetworkSettings.Networks {
		_, err = api.NetworkConnect(ctx, name, client.NetworkConnectOptions{Container: again.ID, EndpointConfig: settings})
		equal(t, "connect "+name, err, nil)
	}
	start(t, api, again.ID)
	after := inspect(t, api, again.ID)
	equal(t, "configuration", fmt.Sprintf("%+v", *after.Config), fmt.Sprintf("%+v", *before.Config))
	equal(t, "name", after.Name, before.Name)
	equal(t, "networks", fmt.Sprint(slices.Sorted(maps.Keys(after.NetworkSettings.Networks))), "[one two]")
	equal(t, "memory", after.HostConfig.Memory, before.HostConfig.Memory)
	if !slices.Contains(after.NetworkSettings.Networks["one"].Aliases, "alias") {
		t.Errorf("aliases: %v", after.NetworkSettings.Networks["one"].Aliases)
	}
}

func inspect(t *testing.T, api *client.Client, id string) container.InspectResponse {
	t.Helper()
	got, err := api.ContainerInspect(bounded(t), id, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got.Container
}
