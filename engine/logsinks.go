package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine/container/logsink"
)

// logSink is a service to which what containers print is sent.
type logSink interface {
	Send(context.Context, logsink.Message) error
	Close() // the next Send connects again
}

// forwards tells whether what a container prints is sent to a service, beside
// being kept.
func (c *config) forwards() bool {
	if c.LogFormat != "json-file" {
		return false
	}
	return c.HostConfig.LogConfig.Type == "syslog" || c.HostConfig.LogConfig.Type == "journald"
}

// checkSink refuses what a service cannot be reached by.
func checkSink(c dcontainer.LogConfig) error {
	if c.Type != "syslog" {
		return nil
	}
	if _, err := syslogOf(c.Config); err != nil {
		return invalid("%w", err)
	}
	return nil
}

// checkSocket refuses a service on a Unix socket that there is not: not later,
// when it may be away.
func checkSocket(c dcontainer.LogConfig) error {
	if c.Type != "syslog" {
		return nil
	}
	cfg, err := syslogOf(c.Config)
	if err == nil && (cfg.Network == "unix" || cfg.Network == "unixgram") {
		_, err = os.Stat(cfg.Address)
	}
	if err != nil {
		return invalid("%w", err)
	}
	return nil
}

func syslogOf(options map[string]string) (cfg logsink.SyslogConfig, err error) {
	if cfg.Network, cfg.Address, err = logsink.ParseAddress(options["syslog-address"]); err != nil {
		return cfg, err
	}
	if cfg.Facility, err = logsink.ParseFacility(options["syslog-facility"]); err != nil {
		return cfg, err
	}
	_, skip := options["syslog-tls-skip-verify"] // whatever its value
	cfg.TLS = logsink.TLSFiles{CA: options["syslog-tls-ca-cert"], Cert: options["syslog-tls-cert"], Key: options["syslog-tls-key"], SkipVerify: skip}
	cfg.Format = options["syslog-format"]
	if !logsink.KnownFormat(cfg.Format) {
		return cfg, invalid("Invalid syslog format")
	}
	return cfg, nil
}

// sinkOf is the service of a container that forwards, without connecting to it.
func sinkOf(cfg *config) (logSink, error) {
	options := cfg.HostConfig.LogConfig.Config
	tag, err := logTag(options["tag"], cfg)
	if err != nil {
		return nil, err
	}
	if tag == "" {
		tag = cfg.ID[:12]
	}
	if cfg.HostConfig.LogConfig.Type == "journald" {
		fields, err := journalFields(cfg, tag)
		return logsink.NewJournal(logsink.JournalSocket, fields), err
	}
	syslog, err := syslogOf(options)
	if err != nil {
		return nil, err
	}
	syslog.Tag, syslog.PID = tag, os.Getpid()
	syslog.Hostname, err = os.Hostname()
	return logsink.NewSyslog(syslog), err
}

// journalFields are what the journal is told of a container with each line.
func journalFields(cfg *config, tag string) (map[string]string, error) {
	attrs, err := logAttributes(cfg)
	if err != nil {
		return nil, err
	}
	delete(attrs, "tag")
	fields := map[string]string{
		"CONTAINER_ID": cfg.ID[:12], "CONTAINER_ID_FULL": cfg.ID, "CONTAINER_NAME": cfg.Name,
		"CONTAINER_TAG": tag, "IMAGE_NAME": cfg.Config.Image, "SYSLOG_IDENTIFIER": tag,
	}
	for name, value := range attrs {
		if field := logsink.FieldName(name); field != "" {
			fields[field] = value
		}
	}
	return fields, nil
}

// readySink refuses the start of a container whose service this host cannot
// speak to at all. One that is away is no reason.
func readySink(cfg *config) error {
	var err error
	switch {
	case !cfg.forwards():
		return nil
	case cfg.HostConfig.LogConfig.Type == "journald":
		if !exists(logsink.JournalSocket) {
			err = errors.New("journald is not enabled on this host")
		}
	default:
		var syslog logsink.SyslogConfig
		if syslog, err = syslogOf(cfg.HostConfig.LogConfig.Config); err == nil {
			_, err = syslog.TLS.Config()
		}
	}
	if err != nil {
		return fmt.Errorf("failed to create task for container: failed to initialize logging driver: %w", err)
	}
	return nil
}
