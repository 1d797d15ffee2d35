package plan

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Mount mounts the overlay at target in the mount namespace of the calling
// thread, as a container's root is mounted. It changes the thread's working
// directory.
func (o *Overlay) Mount(target string) error {
	base, data, err := o.options(false)
	if err != nil {
		return err
	}
	if err := unix.Chdir(base); err != nil {
		return fmt.Errorf("chdir to %s: %w", base, err)
	}
	if err := unix.Mount("overlay", target, "overlay", 0, data); err != nil {
		return fmt.Errorf("mount the layers: %w", err)
	}
	return nil
}
