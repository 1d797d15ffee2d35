package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"gantry/internal/problem"
)

// Server is what the handler needs of the server that it speaks for.
type Server interface {
	Status() Status
	Usage(ctx context.Context) (Usage, error)
	Ports(ctx context.Context, container string) ([]Port, error)
	Check(ctx context.Context) ([]Violation, error)
	Disk(ctx context.Context) (Disk, error)
	// Stop begins to stop the server and returns at once.
	Stop(containers Fate)
}

// Handler serves the protocol of this package for s.
func Handler(s Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, s.Status(), nil)
	})
	mux.HandleFunc("GET /usage", func(w http.ResponseWriter, r *http.Request) {
		usage, err := s.Usage(r.Context())
		reply(w, usage, err)
	})
	mux.HandleFunc("GET /ports", func(w http.ResponseWriter, r *http.Request) {
		ports, err := s.Ports(r.Context(), r.FormValue("container"))
		reply(w, ports, err)
	})
	mux.HandleFunc("GET /check", func(w http.ResponseWriter, r *http.Request) {
		found, err := s.Check(r.Context())
		reply(w, found, err)
	})
	mux.HandleFunc("GET /disk", func(w http.ResponseWriter, r *http.Request) {
		disk, err := s.Disk(r.Context())
		reply(w, disk, err)
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		switch fate := Fate(r.FormValue("containers")); fate {
		case Keep, Stop, Kill:
			s.Stop(fate)
			w.WriteHeader(http.StatusNoContent)
		default:
			http.Error(w, "containers: want keep, stop or kill", http.StatusBadRequest)
		}
	})
	return mux
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		code := http.StatusInternalServerError
		if errors.Is(err, problem.NotFound) {
			code = http.StatusNotFound
		}
		http.Error(w, err.Error(), code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}
