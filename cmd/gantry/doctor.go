package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"gantry/internal/instance"
	"gantry/internal/preflight"
	"gantry/internal/settings"
)

func doctorCommand() *cobra.Command {
	var flags *settings.Flags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Try what the server needs of this host, and say how to mend what is missing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.Read()
			if err != nil {
				return err
			}
			if len(flags.Given()) == 0 {
				if cfg, _, err = instance.Find(cfg.Name); err != nil {
					return err
				}
			}
			return diagnose(cmd.Context(), cfg)
		},
	}
	flags = settings.Register(cmd.Flags())
	return cmd
}

// diagnose prints each result; the command fails if anything is missing.
func diagnose(ctx context.Context, cfg instance.Config) error {
	failed := 0
	for _, r := range preflight.All(cfg) {
		if r.Err == nil {
			fmt.Printf("ok    %-18s %s\n", r.Name, r.Detail)
			continue
		}
		failed++
		complain(r.Required, r.Name, r.Err.Error(), r.Fix)
	}
	var findings []finding
	if err := askDaemon(ctx, cfg, "diagnose", &findings); err != nil {
		failed++
		complain(false, "network", err.Error(), "run it as root, with gantryd beside gantry")
	} else if len(findings) == 0 {
		fmt.Printf("ok    %-18s %s\n", "network", "nothing impairs it")
	}
	for _, f := range findings {
		failed++
		complain(f.Fatal, "network", f.Problem, f.Fix)
	}
	if failed > 0 {
		return errSaid
	}
	return nil
}

// finding is what "gantryd diagnose" prints.
type finding struct {
	Problem, Fix string
	Fatal        bool
}

func complain(fatal bool, name, problem, fix string) {
	word := "warn"
	if fatal {
		word = "FAIL"
	}
	fmt.Printf("%s  %-18s %v\n      %-18s fix: %s\n", word, name, problem, "", fix)
}
