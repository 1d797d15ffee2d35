package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// shareMemory mounts the shared memory of a container whose IPC namespace
// others may join, at RUN/sandboxes/ID/shm, where they find it. unpin undoes it.
func (e *Engine) shareMemory(cfg *config) (string, error) {
	if err := e.unpin(cfg.ID); err != nil { // of a run that a crash ended
		return "", err
	}
	shm := e.sharedMemory(cfg.ID)
	if err := os.MkdirAll(filepath.Dir(shm), 0o711); err != nil {
		return "", err
	}
	if err := e.privateRun(); err != nil {
		return "", err
	}
	if err := os.Mkdir(shm, 0o1777); err != nil {
		return "", err
	}
	size := cfg.HostConfig.ShmSize
	if size == 0 {
		size = defaultShmBytes
	}
	options := fmt.Sprintf("mode=1777,size=%d", size)
	if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return "", fmt.Errorf("mount shared memory of container %s: %w", cfg.ID, err)
	}
	return shm, nil
}

func (e *Engine) sharedMemory(id string) string { return filepath.Join(e.sandboxRun(id), "shm") }

// unshareMemory lets go of what shareMemory mounted. Who still uses it keeps it.
func (e *Engine) unshareMemory(cfg *config) error {
	if !cfg.HostConfig.IpcMode.IsShareable() {
		return nil
	}
	err := e.unpin(cfg.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// surroundIPC finds the IPC namespace and the shared memory of a container.
func (e *Engine) surroundIPC(cfg *config, in *surroundings) (err error) {
	mode := cfg.HostConfig.IpcMode
	switch {
	case mode.IsShareable():
		in.shm, err = e.shareMemory(cfg)
		return err
	case !mode.IsContainer():
		return nil
	}
	r, err := e.find(mode.Container())
	if err != nil {
		return err
	}
	this := r.running()
	if this == nil {
		return problem.New(problem.Conflict, "cannot join IPC of a non running container: %s", r.id)
	}
	in.ipc, in.shm = fmt.Sprintf("/proc/%d/ns/ipc", this.proc.Pid()), e.sharedMemory(r.id)
	return nil
}
