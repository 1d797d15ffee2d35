package main

import (
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
		RunE: func(*cobra.Command, []string) error {
			cfg, err := flags.Read()
			if err != nil {
				return err
			}
			if len(flags.Given()) == 0 {
				if cfg, _, err = instance.Find(cfg.Name); err != nil {
					return err
				}
			}
			return diagnose(cfg)
		},
	}
	flags = settings.Register(cmd.Flags())
	return cmd
}

// diagnose prints each result; the command fails if anything is missing.
func diagnose(cfg instance.Config) error {
	failed := 0
	for _, r := range preflight.All(cfg) {
		if r.Err == nil {
			fmt.Printf("ok    %-18s %s\n", r.Name, r.Detail)
			continue
		}
		failed++
		word := "warn"
		if r.Required {
			word = "FAIL"
		}
		fmt.Printf("%s  %-18s %v\n      %-18s fix: %s\n", word, r.Name, r.Err, "", r.Fix)
	}
	if failed > 0 {
		return errSaid
	}
	return nil
}
