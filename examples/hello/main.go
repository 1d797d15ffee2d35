// Command hello answers every request with the name of the replica that served
// it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx, ":8080"); err != nil {
		log.Fatal(err)
	}
}

// serve answers on addr until ctx is done, then finishes the requests in
// flight.
func serve(ctx context.Context, addr string) error {
	replica, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{Addr: addr, Handler: handler(replica), ReadHeaderTimeout: 10 * time.Second}
	drained := make(chan error, 1) // one value, sent by the one goroutine below
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		drained <- server.Shutdown(grace)
	}()
	log.Printf("listening on %s", addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-drained
}

func handler(replica string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s", r.Method, r.URL.Path)
		fmt.Fprintf(w, "Hello from %s\n", replica)
	})
}
