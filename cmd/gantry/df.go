package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gantry/internal/control"
	"gantry/push"
)

func dfCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "df",
		Short: "Show what images, build cache and containers take of the disk",
		Long: `Show what images, build cache and containers take of the disk: all of it
together, against what it may take (--disk-budget and --disk-floor of the
server), and how much of it is shared. What can go goes by itself, the oldest
first, when the room is needed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := found(cmd)
			if err != nil {
				return err
			}
			client, _, err := running(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return df(cmd.Context(), client)
		},
	}
}

func df(ctx context.Context, client *control.Client) error {
	d, err := client.Disk(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("stored  %s of at most %s\n", push.Bytes(d.TakenBytes), push.Bytes(d.LimitBytes))
	fmt.Printf("disk    %s, %s free, %s have to be\n\n", push.Bytes(d.TotalBytes), push.Bytes(d.FreeBytes), push.Bytes(d.FloorBytes))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "WHAT\tCOUNT\tSIZE\tSHARED\tUNIQUE\tCAN GO")
	for _, k := range d.Kinds {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", k.Kind, k.Count, push.Bytes(k.Bytes), push.Bytes(k.Bytes-k.OwnBytes), push.Bytes(k.OwnBytes), push.Bytes(k.FreeBytes))
	}
	if len(d.Images) > 0 {
		fmt.Fprintln(w, "\nIMAGE\tID\tSIZE\tSHARED\tUNIQUE\tSTAYS BECAUSE")
	}
	for _, i := range d.Images {
		name, because := "<none>", i.Needs
		if len(i.Names) > 0 {
			name = strings.Join(i.Names, " ")
		}
		if because == "" {
			because = "-"
		}
		fmt.Fprintf(w, "%s\t%.12s\t%s\t%s\t%s\t%s\n", name, i.ID, push.Bytes(i.Bytes), push.Bytes(i.Bytes-i.UniqueBytes), push.Bytes(i.UniqueBytes), because)
	}
	return w.Flush()
}
