// Command gantry-shim is the parent of one container's processes. gantryd
// starts it, and it outlives gantryd; it is not started by hand.
package main

import (
	"os"

	"gantry/engine/container/shim"
)

func main() { os.Exit(shim.Run()) }
