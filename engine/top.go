package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/sys/user"
)

// process is what /proc says about one process.
type process struct {
	pid, ppid      int
	group, session int
	foreground     int // process group of its terminal
	threads, nice  int
	user           string
	uid            int
	tty            string
	started        time.Time
	cpu            time.Duration
	state          string
	name, args     string
	rss, virtual   uint64 // KiB
	memory         uint64 // of the host, KiB
}

func processTable(pids []int, args []string) (dcontainer.TopResponse, error) {
	format, err := parsePsArgs(args)
	if err != nil {
		return dcontainer.TopResponse{}, err
	}
	table := dcontainer.TopResponse{Processes: [][]string{}}
	for _, name := range format {
		table.Titles = append(table.Titles, columns[name].title)
	}
	names := userNames()
	memory, err := HostMemory()
	if err != nil {
		return table, err
	}
	for _, pid := range pids {
		p, err := readProcess(pid)
		if errors.Is(err, fs.ErrNotExist) || isGone(err) {
			continue // it ended meanwhile
		}
		if err != nil {
			return table, err
		}
		p.user, p.memory = names[p.uid], memory>>10
		if p.user == "" {
			p.user = strconv.Itoa(p.uid)
		}
		row := make([]string, len(format))
		for i, name := range format {
			row[i] = columns[name].value(p)
		}
		table.Processes = append(table.Processes, row)
	}
	return table, nil
}

// userNames are the host's, as ps shows them.
func userNames() map[int]string {
	names := map[int]string{}
	users, err := user.ParsePasswdFile("/etc/passwd")
	if err != nil {
		return names // numbers do as well
	}
	for _, u := range slices.Backward(users) {
		names[u.Uid] = u.Name
	}
	return names
}

func readProcess(pid int) (process, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	info, err := os.Stat(dir)
	if err != nil {
		return process{}, err
	}
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return process{}, err
	}
	cmdline, err := os.ReadFile(dir + "cmdline")
	if err != nil {
		return process{}, err
	}
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return process{}, err
	}
	p, err := parseStat(string(stat), string(uptime), time.Now())
	if err != nil {
		return p, fmt.Errorf("%sstat: %w", dir, err)
	}
	p.pid, p.uid = pid, ownerOf(info)
	p.args = strings.TrimRight(strings.ReplaceAll(string(cmdline), "\x00", " "), " ")
	if p.args == "" {
		p.args = "[" + p.name + "]"
	}
	return p, nil
}

// parseStat parses /proc/PID/stat; uptime gives its times a beginning.
func parseStat(stat, uptime string, now time.Time) (process, error) {
	open, shut := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || shut < open {
		return process{}, errors.New("no command in parentheses")
	}
	fields := strings.Fields(stat[shut+1:])
	if len(fields) < 22 {
		return process{}, fmt.Errorf("%d fields after the command", len(fields))
	}
	number := func(i int) uint64 {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0 // the fields read by it are never negative
		}
		return n
	}
	const tick = time.Second / 100
	p := process{
		name: stat[open+1 : shut], state: fields[0], ppid: int(number(1)), group: int(number(2)), session: int(number(3)),
		tty: ttyName(number(4)), threads: int(number(17)),
	}
	// -1 without a terminal; and a priority may be negative.
	p.foreground, _ = strconv.Atoi(fields[5])
	p.nice, _ = strconv.Atoi(fields[16])
	p.cpu = time.Duration(number(11)+number(12)) * tick
	p.virtual, p.rss = number(20)>>10, number(21)*4
	seconds, err := strconv.ParseFloat(strings.Fields(uptime + " 0")[0], 64)
	if err != nil {
		return p, err
	}
	boot := now.Add(-time.Duration(seconds * float64(time.Second)))
	p.started = boot.Add(time.Duration(number(19)) * tick)
	return p, nil
}

// ttyName names the terminals that containers have.
func ttyName(device uint64) string {
	major, minor := device>>8&0xfff, device&0xff|device>>12&0xfff00
	if major >= 136 && major <= 143 {
		return fmt.Sprintf("pts/%d", (major-136)<<8+minor)
	}
	return "?"
}
