package apiserver

import (
	"encoding/json"
	"runtime"

	"k8s.io/apimachinery/pkg/version"
)

// Version of the API: that of the k8s.io modules in go.mod.
const (
	apiMajor   = "1"
	apiMinor   = "36"
	apiVersion = "v1.36.3+gantry"
)

func (s *Server) serveVersion(req *request) error {
	body, err := json.MarshalIndent(version.Info{
		Major: apiMajor, Minor: apiMinor, GitVersion: apiVersion, GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}, "", "  ")
	if err != nil {
		return err
	}
	req.w.Header().Set("Content-Type", typeJSON)
	_, _ = req.w.Write(body) // the client is gone if this fails
	return nil
}
