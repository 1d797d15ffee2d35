package shim

import (
	"io"
	"os"
	"sync"
	"time"

	"gantry/engine/container/wire"
)

// queueLimit bounds what waits for a client that reads slowly; at the limit the
// container's output is held up, as by a slow terminal: nothing is dropped.
const queueLimit = 64 << 10

// client is one attached connection. A goroutine of its own writes what is
// queued for it.
type client struct {
	conn     *os.File
	out, err bool
	gone     chan struct{} // closed when the writer has ended

	mu     sync.Mutex
	cond   *sync.Cond // of mu: a member below changed
	queue  []byte
	loose  bool // the process has ended: queue all that is left of its output
	ending bool // the writer ends when the queue is empty
	broken bool
}

func newClient(conn *os.File) *client {
	c := &client{conn: conn, gone: make(chan struct{})}
	c.cond = sync.NewCond(&c.mu)
	go c.write()
	return c
}

// send queues frame, waiting for room; false if the client is gone.
func (c *client) send(frame []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > queueLimit && !c.loose && !c.broken {
		c.cond.Wait()
	}
	c.queue = append(c.queue, frame...)
	c.cond.Broadcast()
	return !c.broken
}

func (c *client) write() {
	defer close(c.gone)
	var out []byte
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.ending && !c.broken {
			c.cond.Wait()
		}
		out, c.queue = c.queue, out[:0]
		done := len(out) == 0 || c.broken
		c.cond.Broadcast()
		c.mu.Unlock()
		if done {
			return
		}
		if _, err := c.conn.Write(out); err != nil {
			c.hangUp()
		}
	}
}

// hangUp gives the client up.
func (c *client) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	c.cond.Broadcast()
}

// loosen lets the queue grow beyond its limit.
func (c *client) loosen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loose = true
	c.cond.Broadcast()
}

// end queues the end of the output.
func (c *client) end() {
	var h [wire.HeaderSize]byte
	wire.PutHeader(h[:], wire.End, 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, h[:]...)
	c.ending = true
	c.cond.Broadcast()
}

// pump starts to copy a process's output to the log and to the clients, and
// closes p.drained when all of it has ended. stderr is nil for a terminal.
func (s *Shim) pump(p *process, stdout, stderr *os.File) {
	p.pumping = true
	var wg sync.WaitGroup
	wg.Go(func() { p.copyOutput(stdout, wire.Stdout) })
	if stderr != nil {
		wg.Go(func() { p.copyOutput(stderr, wire.Stderr) })
	}
	go func() {
		wg.Wait()
		close(p.drained)
	}()
}

func (p *process) copyOutput(f *os.File, stream wire.Stream) {
	defer func() {
		if !p.spec.Terminal {
			f.Close()
		}
	}()
	buf := make([]byte, wire.HeaderSize+wire.MaxChunk)
	for {
		// A terminal whose last user is gone fails with EIO: its end.
		n, err := f.Read(buf[wire.HeaderSize:])
		if n > 0 {
			if p.log != nil {
				p.log.write(stream, buf[wire.HeaderSize:wire.HeaderSize+n])
			}
			wire.PutHeader(buf, stream, n)
			p.broadcast(stream, buf[:wire.HeaderSize+n])
		}
		if err != nil {
			return
		}
	}
}

// broadcast blocks while a client does not read, as a terminal would: nothing
// that a client asked for is dropped.
func (p *process) broadcast(stream wire.Stream, frame []byte) {
	p.mu.Lock()
	clients := p.clients
	p.mu.Unlock()
	for _, c := range clients {
		if stream == wire.Stdout && !c.out || stream == wire.Stderr && !c.err {
			continue
		}
		if !c.send(frame) {
			p.detach(c)
		}
	}
}

// attach adds c, with the reply as the first thing it gets; from then on it
// gets all output.
func (p *process) attach(c *client, reply []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.send(reply)
	if p.finished {
		c.end()
		return
	}
	if p.dead {
		c.loosen()
	}
	p.clients = append(p.clients[:len(p.clients):len(p.clients)], c)
}

func (p *process) detach(c *client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var rest []*client
	for _, o := range p.clients {
		if o != c {
			rest = append(rest, o)
		}
	}
	p.clients = rest
}

// serveInput copies from an attached connection to the process until the
// client is gone.
func (p *process) serveInput(c *client, stdin bool) {
	defer p.detach(c)
	defer c.hangUp()
	buf := make([]byte, 4096)
	for {
		if _, err := io.ReadFull(c.conn, buf[:wire.HeaderSize]); err != nil {
			break
		}
		kind, n := wire.Header(buf)
		if kind == wire.StdinEnd {
			p.inputEnded(stdin)
			continue
		}
		for n > 0 {
			m, err := c.conn.Read(buf[:min(n, len(buf))])
			if err != nil {
				p.inputEnded(stdin)
				return
			}
			n -= m
			if in := p.input(); stdin && in != nil {
				// A process that has closed its stdin or ended; the rest of
				// the input is read and dropped, as by a closed pipe.
				_, _ = in.Write(buf[:m])
			}
		}
	}
	p.inputEnded(stdin)
}

func (p *process) input() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdin
}

// inputEnded closes the process's stdin where it belongs to one client only. A
// terminal stays.
func (p *process) inputEnded(stdin bool) {
	if !stdin || !p.spec.StdinOnce || p.spec.Terminal {
		return
	}
	p.mu.Lock()
	in := p.stdin
	p.stdin = nil
	p.mu.Unlock()
	if in != nil {
		in.Close()
	}
}

// drainLimit is how long after a process's end its output may go on: others
// may hold its pipes, a daemon that it left in a shared pid namespace.
const drainLimit = 2 * time.Second

// finish waits for p's end, and then for its output's, and tells the clients.
func (p *process) finish() []*client {
	<-p.reaped
	p.mu.Lock()
	p.dead = true
	for _, c := range p.clients {
		c.loosen()
	}
	p.mu.Unlock()
	limit := time.NewTimer(drainLimit)
	select {
	case <-p.drained:
	case <-limit.C:
	}
	limit.Stop()
	p.mu.Lock()
	clients := p.clients
	p.clients, p.finished = nil, true
	in, terminal := p.stdin, p.terminal
	p.stdin, p.terminal = nil, nil
	p.mu.Unlock()
	for _, c := range clients {
		c.end()
	}
	if in != nil {
		in.Close()
	}
	if terminal != nil && terminal != in {
		terminal.Close()
	}
	return clients
}
