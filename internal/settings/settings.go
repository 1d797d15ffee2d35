// Package settings reads a server's settings from flags and from a file with
// the same names. The daemon and the command that starts it share it.
package settings

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"gantry/internal/instance"
	"gantry/internal/problem"
)

// Flags are the flags of a server. One that is given wins over the same name
// in the file of --config, which wins over the default.
type Flags struct {
	set  *pflag.FlagSet
	file string
}

// Register adds the flags to set.
func Register(set *pflag.FlagSet) *Flags {
	f := &Flags{set: set}
	set.String("instance", "", "name of the server on this host (default $GANTRY_INSTANCE, else gantry)")
	set.String("data-dir", "", "where state is kept (default /var/lib/INSTANCE)")
	set.String("run-dir", "", "where the sockets are (default /run/INSTANCE)")
	set.String("api-listen", "", "address of the Kubernetes API (default 127.0.0.1:6443)")
	set.String("http-listen", "", "address of the ingress (default :80)")
	set.StringSlice("disable", nil, "parts that are off: "+strings.Join(instance.Parts, ", "))
	set.String("registry-listen", "", "address of the image registry (default "+instance.DefaultRegistry+")")
	set.String("registry-users", "", "YAML file of the registry's users and their rights; required beyond loopback")
	set.StringSlice("registry-pull-through", nil, "registries that the image registry is a cache of: docker.io, ghcr.io ...")
	set.String("registry-tls-cert", "", "certificate of the registry; required beyond loopback")
	set.String("registry-tls-key", "", "key of that certificate")
	set.StringSlice("registry-certs", nil, "directories that hold HOST[:PORT]/*.crt, *.cert, *.key of registries (default "+strings.Join(instance.DefaultCerts, ", ")+")")
	set.StringSlice("registry-mirror", nil, "[HOST=]URL of a mirror that pulls try first; without HOST of docker.io")
	set.StringSlice("insecure-registry", nil, "HOST[:PORT] or CIDR of registries whose certificates are not verified, or that speak plain HTTP")
	set.Bool("icc", true, "containers on the default bridge network reach each other")
	set.Bool("bypass-input-policy", false, "published ports are open to those, too, whom the host's own input chains drop")
	set.String("signature-policy", "", "YAML file that says which images must be signed, and by whom")
	set.Bool("init", false, "containers have an init unless they say otherwise, as with docker run --init")
	set.String("log-driver", "", "log driver of containers that name none (default json-file)")
	set.StringArray("log-opt", nil, "NAME=VALUE, an option of the default log driver; may be repeated")
	set.String("disk-budget", "", "share of the disk that images, build cache and containers may take; beyond it what is not needed goes (default 80%)")
	set.String("disk-floor", "", "bytes of the disk that stay free, such as 5GB (default a twentieth of the disk, at most 5GB)")
	set.String("log-level", "", "debug, info, warn or error (default info)")
	set.StringSliceP("host", "H", nil, "where the Docker API is served too: unix://PATH or tcp://ADDRESS:PORT")
	set.Bool("tls", false, "use TLS on tcp:// hosts; implied by --tlsverify")
	set.Bool("tlsverify", false, "use TLS and verify the clients")
	set.String("tlscacert", "", "PEM file: trust clients with certificates of this authority (default $DOCKER_CERT_PATH/ca.pem)")
	set.String("tlscert", "", "PEM file: the server's certificate (default $DOCKER_CERT_PATH/cert.pem)")
	set.String("tlskey", "", "PEM file: the key of --tlscert (default $DOCKER_CERT_PATH/key.pem)")
	set.StringVar(&f.file, "config", "", "YAML file with the same names as the flags")
	return f
}

// given are all flags but --instance.
var given = []string{
	"disk-budget", "disk-floor",
	"data-dir", "run-dir", "api-listen", "http-listen", "registry-listen", "registry-users",
	"registry-tls-cert", "registry-tls-key", "registry-certs", "registry-mirror", "insecure-registry", "signature-policy", "registry-pull-through", "disable", "icc", "bypass-input-policy", "init", "log-level", "config",
	"log-driver", "log-opt",
	"host", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey",
}

// Given returns the names of the flags that are given, --instance apart.
func (f *Flags) Given() []string {
	var names []string
	f.set.Visit(func(flag *pflag.Flag) {
		if slices.Contains(given, flag.Name) {
			names = append(names, flag.Name)
		}
	})
	return names
}

// Read returns the settings, with defaults filled.
func (f *Flags) Read() (instance.Config, error) {
	var cfg instance.Config
	if f.file != "" {
		data, err := os.ReadFile(f.file)
		if err != nil {
			return cfg, &problem.UserError{Op: "read settings", Err: err, Try: "name an existing file with --config"}
		}
		if err := yaml.UnmarshalStrict(data, &cfg); err != nil {
			return cfg, &problem.UserError{Op: "read", Object: f.file, Err: plain(err), Try: "use the names of the flags that \"gantryd server --help\" lists"}
		}
	}
	if cfg.Name == "" {
		cfg.Name = os.Getenv("GANTRY_INSTANCE")
	}
	for flag, into := range map[string]*string{
		"instance": &cfg.Name, "data-dir": &cfg.DataDir, "run-dir": &cfg.RunDir,
		"api-listen": &cfg.APIListen, "http-listen": &cfg.HTTPListen, "log-level": &cfg.LogLevel, "log-driver": &cfg.LogDriver,
		"disk-budget": &cfg.DiskBudget, "disk-floor": &cfg.DiskFloor,
		"tlscacert": &cfg.TLSCACert, "tlscert": &cfg.TLSCert, "tlskey": &cfg.TLSKey,
		"registry-listen": &cfg.RegistryListen, "registry-users": &cfg.RegistryUsers,
		"registry-tls-cert": &cfg.RegistryTLSCert, "registry-tls-key": &cfg.RegistryTLSKey,
		"signature-policy": &cfg.SignaturePolicy,
	} {
		if f.set.Changed(flag) {
			*into = f.set.Lookup(flag).Value.String()
		}
	}
	for flag, into := range map[string]*[]string{
		"disable": &cfg.Disable, "registry-certs": &cfg.RegistryCerts, "registry-pull-through": &cfg.RegistryPullThrough,
		"registry-mirror": &cfg.RegistryMirrors, "insecure-registry": &cfg.InsecureRegistries,
	} {
		if f.set.Changed(flag) {
			*into, _ = f.set.GetStringSlice(flag) // it is one: registered above
		}
	}
	if f.set.Changed("log-opt") {
		cfg.LogOptions, _ = f.set.GetStringArray("log-opt") // it is one: registered above
	}
	if f.set.Changed("bypass-input-policy") {
		cfg.BypassInput, _ = f.set.GetBool("bypass-input-policy")
	}
	if f.set.Changed("init") {
		cfg.Init, _ = f.set.GetBool("init") // it is one: registered above
	}
	if f.set.Changed("host") {
		cfg.Hosts, _ = f.set.GetStringSlice("host")
	}
	for flag, into := range map[string]**bool{"icc": &cfg.ICC, "tls": &cfg.TLS, "tlsverify": &cfg.TLSVerify} {
		if f.set.Changed(flag) {
			on, _ := f.set.GetBool(flag)
			*into = &on
		}
	}
	certificates(&cfg)
	return cfg.WithDefaults()
}

// certificates fills in where dockerd looks for certificates.
func certificates(cfg *instance.Config) {
	if (cfg.TLS == nil || !*cfg.TLS) && (cfg.TLSVerify == nil || !*cfg.TLSVerify) {
		return
	}
	dir := os.Getenv("DOCKER_CERT_PATH")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return // then the files have to be named
		}
		dir = filepath.Join(home, ".docker")
	}
	for name, into := range map[string]*string{"ca.pem": &cfg.TLSCACert, "cert.pem": &cfg.TLSCert, "key.pem": &cfg.TLSKey} {
		if *into == "" {
			*into = filepath.Join(dir, name)
		}
	}
}

// plain takes the names of Go types out of a decoder's message.
func plain(err error) error {
	text := strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: ")
	return problem.New(problem.Invalid, "%w", errors.New(strings.TrimPrefix(text, "json: ")))
}

// Arguments returns the flags that give a server these settings.
func Arguments(cfg instance.Config) []string {
	args := []string{
		"--instance=" + cfg.Name, "--data-dir=" + cfg.DataDir, "--run-dir=" + cfg.RunDir,
		"--api-listen=" + cfg.APIListen, "--http-listen=" + cfg.HTTPListen, "--log-level=" + cfg.LogLevel,
	}
	if cfg.LogDriver != "" {
		args = append(args, "--log-driver="+cfg.LogDriver)
	}
	for _, option := range cfg.LogOptions {
		args = append(args, "--log-opt="+option) // one each: values have commas
	}
	if cfg.ICC != nil {
		args = append(args, "--icc="+strconv.FormatBool(*cfg.ICC))
	}
	if cfg.BypassInput {
		args = append(args, "--bypass-input-policy")
	}
	if cfg.Init {
		args = append(args, "--init")
	}
	for _, one := range [][2]string{
		{"disk-budget", cfg.DiskBudget}, {"disk-floor", cfg.DiskFloor},
		{"registry-listen", cfg.RegistryListen}, {"registry-users", cfg.RegistryUsers},
		{"registry-tls-cert", cfg.RegistryTLSCert}, {"registry-tls-key", cfg.RegistryTLSKey},
		{"signature-policy", cfg.SignaturePolicy},
	} {
		if one[1] != "" {
			args = append(args, "--"+one[0]+"="+one[1])
		}
	}
	for _, list := range []struct {
		flag   string
		values []string
	}{
		{"disable", cfg.Disable}, {"registry-certs", cfg.RegistryCerts}, {"registry-pull-through", cfg.RegistryPullThrough},
		{"registry-mirror", cfg.RegistryMirrors}, {"insecure-registry", cfg.InsecureRegistries},
	} {
		if len(list.values) > 0 {
			args = append(args, "--"+list.flag+"="+strings.Join(list.values, ","))
		}
	}
	for _, host := range cfg.Hosts {
		args = append(args, "--host="+host)
	}
	for flag, on := range map[string]*bool{"tls": cfg.TLS, "tlsverify": cfg.TLSVerify} {
		if on != nil {
			args = append(args, "--"+flag+"="+strconv.FormatBool(*on))
		}
	}
	for flag, file := range map[string]string{"tlscacert": cfg.TLSCACert, "tlscert": cfg.TLSCert, "tlskey": cfg.TLSKey} {
		if file != "" {
			args = append(args, "--"+flag+"="+file)
		}
	}
	return args
}
