// Command api checks guestbook entries and passes them to the store.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

// longest is how many bytes an entry may have.
const longest = 500

// api forwards to the store's address.
type api struct {
	store  string
	client *http.Client
}

func main() {
	a := &api{store: os.Getenv("STORE"), client: &http.Client{Timeout: 5 * time.Second}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /entries", a.list)
	mux.HandleFunc("POST /entries", a.add)
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Printf("store is %s", a.store)
	log.Fatal(server.ListenAndServe())
}

func (a *api) add(w http.ResponseWriter, r *http.Request) {
	text := strings.TrimSpace(r.FormValue("text"))
	if text == "" || len(text) > longest {
		http.Error(w, "text must have 1 to 500 bytes", http.StatusBadRequest)
		return
	}
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	resp, err := a.client.Post(a.store+"/entries", "application/json", bytes.NewReader(body))
	relay(w, resp, err)
}

func (a *api) list(w http.ResponseWriter, _ *http.Request) {
	resp, err := a.client.Get(a.store + "/entries")
	relay(w, resp, err)
}

// relay answers with the store's answer, or says that there is none.
func relay(w http.ResponseWriter, resp *http.Response, err error) {
	if err != nil {
		http.Error(w, "store: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(w, resp.Body); err != nil {
		log.Print(err)
	}
}
