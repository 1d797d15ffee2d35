// Command store keeps the guestbook's entries in a file, one JSON object a line.
package main

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// entry is one line of the guestbook.
type entry struct {
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// book appends entries to a file and reads them all back.
type book struct {
	mu   sync.Mutex // guards the file against interleaved lines
	path string
}

func main() {
	b := &book{path: filepath.Join(os.Getenv("DATA"), "entries.json")}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /entries", b.list)
	mux.HandleFunc("POST /entries", b.add)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Printf("keeping %s", b.path)
	log.Fatal(server.ListenAndServe())
}

func (b *book) add(w http.ResponseWriter, r *http.Request) {
	var e entry
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&e); err != nil || e.Text == "" {
		http.Error(w, "an entry needs a text", http.StatusBadRequest)
		return
	}
	e.At = time.Now().UTC()
	line, err := json.Marshal(e)
	if err == nil {
		err = b.append(line)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (b *book) append(line []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, err := os.OpenFile(b.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

func (b *book) list(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, err := os.Open(b.path)
	if errors.Is(err, os.ErrNotExist) {
		return // an empty book
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	if err != nil {
		log.Print(err)
	}
}
