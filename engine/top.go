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
	pid, ppid    int
	user         string
	uid          int
	tty          string
	started      time.Time
	cpu          time.Duration
	state        string
	name, args   string
	rss, virtual uint64 // KiB
}

// columns are the fields that a process table can have, by ps's names.
var columns = map[string]struct {
	title string
	value func(process) string
}{
	"pid":   {"PID", func(p process) string { return strconv.Itoa(p.pid) }},
	"ppid":  {"PPID", func(p process) string { return strconv.Itoa(p.ppid) }},
	"user":  {"USER", func(p process) string { return p.user }},
	"uid":   {"UID", func(p process) string { return strconv.Itoa(p.uid) }},
	"uname": {"UID", func(p process) string { return p.user }},
	"c":     {"C", func(p process) string { return strconv.Itoa(p.cpuPercent()) }},
	"stime": {"STIME", func(p process) string { return p.startTime() }},
	"tty":   {"TTY", func(p process) string { return p.tty }},
	"time":  {"TIME", func(p process) string { return clock(p.cpu) }},
	"stat":  {"STAT", func(p process) string { return p.state }},
	"rss":   {"RSS", func(p process) string { return strconv.FormatUint(p.rss, 10) }},
	"vsz":   {"VSZ", func(p process) string { return strconv.FormatUint(p.virtual, 10) }},
	"comm":  {"COMMAND", func(p process) string { return p.name }},
	"args":  {"COMMAND", func(p process) string { return p.args }},
	"cmd":   {"CMD", func(p process) string { return p.args }},
}

// psFormat is the default: that of "ps -ef".
var psFormat = []string{"uname", "pid", "ppid", "c", "stime", "tty", "time", "cmd"}

// parsePsArgs returns the columns that ps's arguments choose.
func parsePsArgs(args []string) ([]string, error) {
	format := psFormat
	words := strings.Fields(strings.Join(args, " "))
	for i := 0; i < len(words); i++ {
		var list string
		switch word := words[i]; {
		case word == "-ef" || word == "-e" || word == "-A" || word == "-f":
			continue
		case (word == "-o" || word == "-eo" || word == "o") && i+1 < len(words):
			i++
			list = words[i]
		case strings.HasPrefix(word, "-o") || strings.HasPrefix(word, "-eo"):
			list = strings.TrimPrefix(strings.TrimPrefix(word, "-eo"), "-o")
		default:
			return nil, unsupported(fmt.Sprintf("ps argument %q", word))
		}
		format = strings.Split(list, ",")
	}
	for _, name := range format {
		if _, known := columns[name]; !known {
			return nil, unsupported(fmt.Sprintf("ps field %q", name))
		}
	}
	return format, nil
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
	for _, pid := range pids {
		p, err := readProcess(pid)
		if errors.Is(err, fs.ErrNotExist) || isGone(err) {
			continue // it ended meanwhile
		}
		if err != nil {
			return table, err
		}
		p.user = names[p.uid]
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
			return 0 // the fields read here are never negative
		}
		return n
	}
	const tick = time.Second / 100
	p := process{name: stat[open+1 : shut], state: fields[0], ppid: int(number(1)), tty: ttyName(number(4))}
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

func (p process) cpuPercent() int {
	age := time.Since(p.started)
	if age <= 0 {
		return 0
	}
	return min(int(100*p.cpu/age), 99)
}

func (p process) startTime() string {
	if time.Since(p.started) < 24*time.Hour {
		return p.started.Format("15:04")
	}
	return p.started.Format("Jan02")
}

func clock(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
