// Command web renders the guestbook.
package main

import (
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<title>Guestbook</title>
<h1>Guestbook</h1>
<form method="post" action="/sign"><input name="text" maxlength="500"><button>Sign</button></form>
<ul>{{range .Entries}}<li>{{.Text}} <small>{{.At}}</small></li>{{end}}</ul>
<p><small>served by {{.Replica}}</small></p>
`))

// entry is one line of the guestbook, as the api gives it.
type entry struct {
	Text string
	At   time.Time
}

// web renders what the api at this address has.
type web struct {
	api     string
	replica string
	client  *http.Client
}

func main() {
	replica, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	s := &web{api: os.Getenv("API"), replica: replica, client: &http.Client{Timeout: 5 * time.Second}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.show)
	mux.HandleFunc("POST /sign", s.sign)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Printf("api is %s", s.api)
	log.Fatal(server.ListenAndServe())
}

func (s *web) show(w http.ResponseWriter, _ *http.Request) {
	entries, err := s.entries()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	err = page.Execute(w, map[string]any{"Entries": entries, "Replica": s.replica})
	if err != nil {
		log.Print(err)
	}
}

func (s *web) entries() ([]entry, error) {
	resp, err := s.client.Get(s.api + "/entries")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New("api answers " + resp.Status)
	}
	var all []entry
	for d := json.NewDecoder(resp.Body); ; {
		var e entry
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
}

func (s *web) sign(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	resp, err := s.client.PostForm(s.api+"/entries", r.PostForm)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		w.WriteHeader(resp.StatusCode)
		if _, err := io.Copy(w, resp.Body); err != nil {
			log.Print(err)
		}
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
