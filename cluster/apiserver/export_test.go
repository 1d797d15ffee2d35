package apiserver

import "net/http"

// ServeAdmin answers r as the administrator's, over a connection without TLS.
func (s *Server) ServeAdmin(w http.ResponseWriter, r *http.Request) {
	s.serveAs(w, r, identity{name: "admin", groups: []string{groupMasters, groupAuthenticated}})
}
