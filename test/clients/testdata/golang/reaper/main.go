// Command reaper does what testcontainers' ryuk does, whose image cannot be had
// everywhere: it removes what carries the labels that its clients name, once they
// have gone. It speaks ryuk's protocol, and calls of the daemon what ryuk calls.
//
// A client sends lines like label=a=b&label=c=d, each acknowledged with ACK, and
// stays connected for as long as it needs what is labelled so.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/moby/moby/client"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	api, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	if _, err := api.Ping(context.Background(), client.PingOptions{}); err != nil {
		return err
	}
	grace, err := time.ParseDuration(os.Getenv("RYUK_RECONNECTION_TIMEOUT"))
	if err != nil {
		grace = 10 * time.Second
	}
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	fmt.Println("Started")
	var all []client.Filters
	for _, f := range listen(listener, grace) {
		all = append(all, f)
	}
	return reap(api, all)
}

// said is what a connection has to tell: that it is there, a filter, or that it
// has gone.
type said struct {
	clients int
	filter  string
}

// listen returns what clients have asked for, each filter once, when none has
// been connected for the time of grace.
func listen(listener net.Listener, grace time.Duration) map[string]client.Filters {
	news := make(chan said)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			news <- said{clients: 1}
			go hear(conn, news)
		}
	}()
	filters := map[string]client.Filters{}
	over := time.NewTimer(time.Minute) // for the first client
	for clients := 0; ; {
		select {
		case s := <-news:
			clients += s.clients
			if s.filter != "" {
				filters[s.filter] = parse(s.filter)
			}
			over.Stop()
			if clients == 0 {
				over.Reset(grace)
			}
		case <-over.C:
			return filters
		}
	}
}

// hear reads one client's lines to their end.
func hear(conn net.Conn, news chan<- said) {
	defer func() { news <- said{clients: -1} }()
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		news <- said{filter: lines.Text()}
		if _, err := conn.Write([]byte("ACK\n")); err != nil {
			return
		}
	}
}

func parse(line string) client.Filters {
	terms, err := url.ParseQuery(line)
	if err != nil {
		log.Fatal(err) // nothing is removed rather than too much
	}
	f := make(client.Filters)
	for term, values := range terms {
		f.Add(term, values...)
	}
	return f
}

// reap removes what the filters select: containers, networks, volumes, images.
func reap(api *client.Client, all []client.Filters) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var problems error
	for _, f := range all {
		containers, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: f})
		problems = errors.Join(problems, err)
		for _, c := range containers.Items {
			if c.Labels["org.testcontainers.ryuk"] != "true" {
				_, err := api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
				problems = errors.Join(problems, err)
			}
		}
		networks, err := api.NetworkList(ctx, client.NetworkListOptions{Filters: f})
		problems = errors.Join(problems, err)
		for _, n := range networks.Items {
			_, err := api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
			problems = errors.Join(problems, err)
		}
		volumes, err := api.VolumeList(ctx, client.VolumeListOptions{Filters: f})
		problems = errors.Join(problems, err)
		for _, v := range volumes.Items {
			if _, err := time.Parse(time.RFC3339, v.CreatedAt); err != nil {
				problems = errors.Join(problems, err)
			}
			_, err := api.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{Force: true})
			problems = errors.Join(problems, err)
		}
		images, err := api.ImageList(ctx, client.ImageListOptions{Filters: f})
		problems = errors.Join(problems, err)
		for _, i := range images.Items {
			_, err := api.ImageRemove(ctx, i.ID, client.ImageRemoveOptions{PruneChildren: true})
			problems = errors.Join(problems, err)
		}
	}
	return problems
}
