package main

import (
	"errors"
	"net"
	"strings"
	"testing"

	"gantry/internal/instance"
	"gantry/internal/problem"
)

func TestTheRegistryIsProtectedBeyondLoopback(t *testing.T) {
	for address, free := range map[string]bool{
		"": true, "127.0.0.1:5000": true, "[::1]:5000": true, "localhost:1": true, "127.1.2.3:1": true,
		":5000": false, "0.0.0.0:5000": false, "10.0.0.1:5000": false, "[::]:5000": false, "example.org:5000": false, "5000": false,
	} {
		_, err := registryTLS(instance.Config{RegistryListen: address})
		if free != (err == nil) || err != nil && !errors.Is(err, problem.Denied) {
			t.Errorf("%q: %v, want it to be free: %v", address, err, free)
		}
	}
}

func TestATakenPortOfTheRegistryIsSaid(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _, err = listenRegistry(l.Addr().String())
	if !errors.Is(err, problem.Conflict) || !strings.Contains(err.Error(), "is taken by") || problem.Try(err) == "" {
		t.Errorf("got %v", err)
	}
}
