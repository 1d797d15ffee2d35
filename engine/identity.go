package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/atomicfile"
	"gantry/internal/fault"
)

// identityFile holds the engine's ID, as a line.
const identityFile = "engine-id"

// Identity returns the ID by which clients tell this engine from others: a random
// UUID that is made when it is first asked for, and stays with the state.
func (e *Engine) Identity() (string, error) {
	e.identity.Lock()
	defer e.identity.Unlock()
	path := filepath.Join(e.cfg.Dir, identityFile)
	data, err := os.ReadFile(path)
	if err == nil {
		id := strings.TrimSpace(string(data))
		if id == "" {
			err = fmt.Errorf("%s is empty", path)
		}
		return id, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var b [16]byte
	rand.Read(b[:]) // never fails
	// RFC 9562, section 5.4: version 4.
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	id := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	if err := fault.At("engine/identity/before-record"); err != nil {
		return "", err
	}
	return id, atomicfile.Write(path, []byte(id+"\n"), 0o600)
}
