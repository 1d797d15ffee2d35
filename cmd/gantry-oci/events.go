package main

import (
	"encoding/json"
	"os"
	"time"

	"gantry/engine/container/oci"
)

// event is one of runc's, in the form that its callers decode.
type event struct {
	Type string          `json:"type"`
	ID   string          `json:"id"`
	Data *oci.Statistics `json:"data,omitempty"`
}

func events(c *call) (int, error) {
	once := c.flags.Bool("stats", false, "show the statistics once")
	interval := c.flags.Duration("interval", 5*time.Second, "time between statistics")
	ctn, _, err := c.container(1, 1)
	if err != nil {
		return 1, err
	}
	id := ctn.State().ID
	show := func(kind string, data *oci.Statistics) error {
		return json.NewEncoder(os.Stdout).Encode(event{Type: kind, ID: id, Data: data})
	}
	if *once {
		s, err := ctn.Statistics()
		if err != nil {
			return 1, err
		}
		return 0, show("stats", s)
	}
	return 0, ctn.Watch(*interval, show)
}
