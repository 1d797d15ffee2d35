package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// pin makes a sandbox's IPC and UTS namespaces and its shared memory, and
// mounts them under RUN/sandboxes/ID, where they stay without a process.
func (e *Engine) pin(cfg *sandboxConfig) error {
	dir := e.sandboxRun(cfg.ID)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if err := e.privateRun(); err != nil {
		return err
	}
	done := make(chan error, 1) // one result
	go func() {
		// Never unlocked: the changed thread dies with the goroutine.
		runtime.LockOSThread()
		done <- pinThread(dir, cfg)
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("pin the namespaces of sandbox %s: %w", cfg.ID, err)
	}
	if cfg.Spec.HostIPC {
		return nil
	}
	shm := filepath.Join(dir, "shm")
	if err := os.Mkdir(shm, 0o1777); err != nil {
		return err
	}
	options := fmt.Sprintf("mode=1777,size=%d", defaultShmBytes)
	if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount shared memory of sandbox %s: %w", cfg.ID, err)
	}
	return nil
}

// privateRun makes the directory of the pins a mount of its own that does not
// propagate: otherwise each new mount namespace on the host would keep a copy of
// every pin.
func (e *Engine) privateRun() error {
	e.pins.Lock()
	defer e.pins.Unlock()
	dir := e.sandboxRun("")
	mounted, err := isMount(dir)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", dir, err)
	}
	return nil
}

// isMount tells whether path is where something is mounted.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, 0, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// pinThread runs on a thread which is given up afterwards.
func pinThread(dir string, cfg *sandboxConfig) error {
	flags := 0
	if !cfg.Spec.HostIPC {
		flags |= unix.CLONE_NEWIPC
	}
	if !cfg.Spec.HostNetwork {
		flags |= unix.CLONE_NEWUTS
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if flags&unix.CLONE_NEWUTS != 0 {
		if err := unix.Sethostname([]byte(cfg.hostname())); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		if err := bindNamespace("uts", filepath.Join(dir, "uts")); err != nil {
			return err
		}
	}
	if flags&unix.CLONE_NEWIPC != 0 {
		if err := bindNamespace("ipc", filepath.Join(dir, "ipc")); err != nil {
			return err
		}
	}
	return setSysctls(cfg)
}

func bindNamespace(kind, target string) error {
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/"+kind, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s namespace: %w", kind, err)
	}
	return nil
}

// setSysctls sets the sandbox's, as the thread's namespaces have them.
func setSysctls(cfg *sandboxConfig) error {
	if len(cfg.Spec.Sysctls) == 0 {
		return nil
	}
	if cfg.Namespace != "" {
		ns, err := os.Open(cfg.Namespace)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join %s: %w", cfg.Namespace, err)
		}
	}
	for name, value := range cfg.Spec.Sysctls {
		key := strings.ReplaceAll(name, ".", "/")
		if err := checkSandboxSysctl(key, cfg); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
			return invalid("sysctl %s=%s: %w", name, value, err)
		}
	}
	return nil
}

// checkSandboxSysctl refuses what is not the sandbox's own.
func checkSandboxSysctl(key string, cfg *sandboxConfig) error {
	ipc := strings.HasPrefix(key, "kernel/msg") || strings.HasPrefix(key, "kernel/sem") ||
		strings.HasPrefix(key, "kernel/shm") || strings.HasPrefix(key, "fs/mqueue/")
	net := strings.HasPrefix(key, "net/")
	if ipc && !cfg.Spec.HostIPC || net && cfg.Namespace != "" {
		return nil
	}
	return invalid("sysctl %q is not in a separate kernel namespace", strings.ReplaceAll(key, "/", "."))
}

// unpin lets a sandbox's namespaces go. It may be repeated.
func (e *Engine) unpin(id string) error {
	dir := e.sandboxRun(id)
	var errs []error
	for _, name := range []string{"ipc", "uts", "shm"} {
		err := unix.Unmount(filepath.Join(dir, name), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s of sandbox %s: %w", name, id, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // what is still mounted must not be removed
	}
	return os.RemoveAll(dir)
}

// bootID names the present boot of the host.
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
}
