package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/atomicfile"
	"gantry/internal/problem"
)

// records holds one file per instance that was started since the host booted,
// so that a name alone is enough to find a server whatever its directories.
const records = "/run/gantry-instances"

// Record writes down the settings under the instance's name. It stays when the
// server stops, so that the next start under that name has the same settings;
// Forget removes it.
func (c Config) Record() error {
	if err := os.MkdirAll(records, 0o755); err != nil {
		return fmt.Errorf("record instance: %w", err)
	}
	return atomicfile.WriteJSON(c.record(), c, 0o644)
}

// Forget removes what Record wrote. Forgetting twice succeeds.
func (c Config) Forget() error {
	err := os.Remove(c.record())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (c Config) record() string { return filepath.Join(records, c.Name+".json") }

// Find returns the recorded settings of the instance; known is false, and the
// settings are the defaults for that name, when none are recorded.
// An empty name means Default.
func Find(name string) (c Config, known bool, err error) {
	c, err = Config{Name: name}.WithDefaults()
	if err != nil {
		return c, false, err
	}
	data, err := os.ReadFile(c.record())
	if errors.Is(err, fs.ErrNotExist) {
		return c, false, nil
	}
	if err != nil {
		return c, false, fmt.Errorf("find instance: %w", err)
	}
	var found Config
	if err := json.Unmarshal(data, &found); err != nil || found.Name != c.Name {
		return c, false, problem.New(problem.Invalid, "%s does not describe instance %q", c.record(), c.Name)
	}
	found, err = found.WithDefaults()
	return found, err == nil, err
}

// Names lists the instances that are recorded.
func Names() ([]string, error) {
	entries, err := os.ReadDir(records)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if n, ok := strings.CutSuffix(e.Name(), ".json"); ok && name.MatchString(n) {
			names = append(names, n)
		}
	}
	return names, nil
}
