package network

import (
	"net/netip"
	"testing"
)

func TestContainersReachEachOtherAndTheOutside(t *testing.T) {
	b := newBed(t)
	outside, host := b.outsider()
	one, two := b.container("one", Bridge), b.container("two", Bridge)
	serve(t, one.Namespace, ":80")
	serve(t, outside, ":80")
	if one.Address.String() != "172.17.0.2/16" || one.Gateway.String() != "172.17.0.1" || one.Interface != "eth0" || one.MAC != "02:42:ac:11:00:02" {
		t.Errorf("first endpoint: %+v", one)
	}
	wantAnswer(t, "same network, own address seen", two.Namespace, one.Address.Addr().String()+":80", two.Address.Addr().String())
	wantAnswer(t, "host to container", "", one.Address.Addr().String()+":80", one.Gateway.String())
	wantAnswer(t, "container to outside is masqueraded", one.Namespace, "203.0.113.9:80", host.String())
	wantNone(t, "outside to a container's address", outside, one.Address.Addr().String()+":80")
}

func TestPublishedPortsAreReachedFromEverywhere(t *testing.T) {
	b := newBed(t)
	outside, host := b.outsider()
	other, err := b.Create(t.Context(), CreateRequest{Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	web, neighbour, stranger, pod := b.container("web", Bridge), b.container("neighbour", Bridge), b.container("stranger", other.Name), b.container("pod", Pods)
	serve(t, web.Namespace, ":80")
	serve(t, pod.Namespace, ":81")
	ports := b.publish(web, PortBinding{ContainerPort: 80, HostPort: 8080}, PortBinding{ContainerPort: 80},
		PortBinding{ContainerPort: 80, HostPort: 8088, HostIP: netip.MustParseAddr("127.0.0.1")})
	b.publish(pod, PortBinding{ContainerPort: 81, HostPort: 8081})
	if ports[1].HostPort == 0 || ports[2].HostPort != 8088 {
		t.Fatalf("chosen ports: %+v", ports)
	}
	gateway := web.Gateway.String()
	all := host.String() + ":8080"
	wantAnswer(t, "outside sees its own address kept", outside, all, "203.0.113.9")
	wantAnswer(t, "host by 127.0.0.1", "", "127.0.0.1:8080", gateway)
	wantAnswer(t, "host by its own address", "", all, host.String())
	wantAnswer(t, "host by the bridge's address", "", gateway+":8080", "")
	wantAnswer(t, "neighbour on the same network", neighbour.Namespace, all, gateway)
	wantAnswer(t, "container on another network", stranger.Namespace, all, stranger.Address.Addr().String())
	wantAnswer(t, "pod", pod.Namespace, all, pod.Address.Addr().String())
	wantAnswer(t, "the container itself (hairpin)", web.Namespace, all, gateway)
	wantAnswer(t, "the pod itself (hairpin)", pod.Namespace, host.String()+":8081", pod.Gateway.String())
	wantAnswer(t, "chosen port", outside, netip.AddrPortFrom(host, ports[1].HostPort).String(), "203.0.113.9")
	wantAnswer(t, "port of 127.0.0.1 from the host", "", "127.0.0.1:8088", gateway)
	wantNone(t, "port of 127.0.0.1 from outside", outside, host.String()+":8088")
	wantNone(t, "port of 127.0.0.1 from a container", neighbour.Namespace, gateway+":8088")

	if err := b.Unpublish(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	wantNone(t, "unpublished", outside, all)
	wantNone(t, "unpublished, from the host", "", "127.0.0.1:8080")
}

func TestNetworksAreIsolatedFromEachOther(t *testing.T) {
	b := newBed(t)
	if _, err := b.Create(t.Context(), CreateRequest{Name: "other"}); err != nil {
		t.Fatal(err)
	}
	one, two, pod := b.container("one", Bridge), b.container("two", "other"), b.container("pod", Pods)
	second := b.container("pod2", Pods)
	for _, ep := range []Endpoint{one, two, pod, second} {
		serve(t, ep.Namespace, ":80")
	}
	address := func(ep Endpoint) string { return ep.Address.Addr().String() }
	wantNone(t, "network to network", one.Namespace, address(two)+":80")
	wantNone(t, "network to network, other way", two.Namespace, address(one)+":80")
	wantNone(t, "network to pod", one.Namespace, address(pod)+":80")
	wantAnswer(t, "pod to container", pod.Namespace, address(one)+":80", address(pod))
	wantAnswer(t, "pod to pod keeps the address", pod.Namespace, address(second)+":80", address(pod))
	wantAnswer(t, "host to pod", "", address(pod)+":80", pod.Gateway.String())
}

func TestLoopbackStaysLoopback(t *testing.T) {
	b := newBed(t)
	evil := b.container("evil", Bridge)
	serve(t, "", "127.0.0.1:9999")
	// Root in a container may route 127.0.0.0/8 out of its namespace.
	err := inside(t, evil.Namespace, func() error {
		if err := setSysctl("ipv4/conf/eth0/route_localnet", "1"); err != nil {
			return err
		}
		l, err := openLinks()
		if err != nil {
			return err
		}
		defer l.close()
		lo, err := l.LinkByName("lo")
		if err != nil {
			return err
		}
		return l.LinkSetDown(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, "host's own service", "", "127.0.0.1:9999", "127.0.0.1")
	wantNone(t, "container to the host's 127.0.0.1", evil.Namespace, "127.0.0.1:9999")
}
