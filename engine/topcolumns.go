package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// columns are the fields that a process table can have, by ps's names.
var columns = map[string]struct {
	title string
	value func(process) string
}{
	"pid":     {"PID", func(p process) string { return strconv.Itoa(p.pid) }},
	"ppid":    {"PPID", func(p process) string { return strconv.Itoa(p.ppid) }},
	"pgid":    {"PGID", func(p process) string { return strconv.Itoa(p.group) }},
	"sid":     {"SID", func(p process) string { return strconv.Itoa(p.session) }},
	"nlwp":    {"NLWP", func(p process) string { return strconv.Itoa(p.threads) }},
	"ni":      {"NI", func(p process) string { return strconv.Itoa(p.nice) }},
	"user":    {"USER", func(p process) string { return p.user }},
	"uid":     {"UID", func(p process) string { return strconv.Itoa(p.uid) }},
	"uname":   {"UID", func(p process) string { return p.user }},
	"c":       {"C", func(p process) string { return strconv.Itoa(int(min(p.cpuPercent(), 99))) }},
	"%cpu":    {"%CPU", func(p process) string { return fmt.Sprintf("%.1f", p.cpuPercent()) }},
	"%mem":    {"%MEM", func(p process) string { return fmt.Sprintf("%.1f", p.memoryPercent()) }},
	"stime":   {"STIME", func(p process) string { return p.startTime() }},
	"start":   {"START", func(p process) string { return p.startTime() }},
	"etime":   {"ELAPSED", func(p process) string { return elapsed(time.Since(p.started)) }},
	"tty":     {"TTY", func(p process) string { return p.tty }},
	"time":    {"TIME", func(p process) string { return clock(p.cpu) }},
	"bsdtime": {"TIME", func(p process) string { return fmt.Sprintf("%d:%02d", int(p.cpu.Minutes()), int(p.cpu.Seconds())%60) }},
	"s":       {"S", func(p process) string { return p.state }},
	"stat":    {"STAT", func(p process) string { return p.state + p.flags() }},
	"rss":     {"RSS", func(p process) string { return strconv.FormatUint(p.rss, 10) }},
	"vsz":     {"VSZ", func(p process) string { return strconv.FormatUint(p.virtual, 10) }},
	"comm":    {"COMMAND", func(p process) string { return p.name }},
	"args":    {"COMMAND", func(p process) string { return p.args }},
	"command": {"COMMAND", func(p process) string { return p.args }},
	"cmd":     {"CMD", func(p process) string { return p.args }},
}

// sameColumns are other names of the fields.
var sameColumns = map[string]string{
	"pcpu": "%cpu", "pmem": "%mem", "tt": "tty", "tname": "tty", "cputime": "time", "rssize": "rss", "vsize": "vsz",
	"ucmd": "comm", "ucomm": "comm", "state": "s", "pgrp": "pgid", "sess": "sid", "thcount": "nlwp", "nice": "ni", "euser": "user", "euid": "uid",
}

// The formats of "ps -ef", which is the default, and of "ps aux".
var (
	psFormat    = []string{"uname", "pid", "ppid", "c", "stime", "tty", "time", "cmd"}
	psAuxFormat = []string{"user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "bsdtime", "command"}
)

// parsePsArgs returns the columns that ps's arguments choose. Which processes
// they choose means nothing: it is those of the container.
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
		case strings.Trim(strings.TrimPrefix(word, "-"), "auxw") == "" && strings.Trim(word, "-") != "":
			if strings.Contains(word, "u") {
				format = psAuxFormat
			}
			continue
		default:
			return nil, unsupported(fmt.Sprintf("ps argument %q", word))
		}
		format = strings.Split(list, ",")
	}
	format = slices.Clone(format)
	for i, name := range format {
		if other, ok := sameColumns[name]; ok {
			format[i] = other
		}
		if _, known := columns[format[i]]; !known {
			return nil, unsupported(fmt.Sprintf("ps field %q", name))
		}
	}
	if !slices.Contains(format, "pid") {
		return nil, invalid("Couldn't find PID field in ps output")
	}
	return format, nil
}

// flags are what ps shows behind a process's state.
func (p process) flags() string {
	var flags string
	for _, f := range []struct {
		set  bool
		flag string
	}{
		{p.nice < 0, "<"}, {p.nice > 0, "N"}, {p.session == p.pid, "s"}, {p.threads > 1, "l"}, {p.foreground > 0 && p.foreground == p.group, "+"},
	} {
		if f.set {
			flags += f.flag
		}
	}
	return flags
}

// cpuPercent is the part of its life that the process ran, of one CPU.
func (p process) cpuPercent() float64 {
	age := time.Since(p.started)
	if age <= 0 {
		return 0
	}
	return min(100*float64(p.cpu)/float64(age), 999)
}

func (p process) memoryPercent() float64 {
	if p.memory == 0 {
		return 0
	}
	return 100 * float64(p.rss) / float64(p.memory)
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

// elapsed is [[days-]hours:]minutes:seconds.
func elapsed(d time.Duration) string {
	s := max(int(d.Seconds()), 0)
	switch {
	case s >= 24*3600:
		return fmt.Sprintf("%d-%s", s/(24*3600), clock(d%(24*time.Hour)))
	case s >= 3600:
		return clock(d)
	}
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}
