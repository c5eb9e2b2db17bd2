package proxy

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxConfigSize bounds what is read of a configuration file.
	maxConfigSize = 1 << 20
	// maxConfigProblems bounds what is said about one.
	maxConfigProblems = 100
)

// LoadConfig reads the configuration file at path. What is wrong inside the
// file comes as one [*ConfigError] that holds all of it.
func LoadConfig(path string) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close() // only read from: nothing to lose
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return parseConfig(path, filepath.Dir(abs), data, os.Hostname)
}

// ParseConfig reads a configuration from data. The name stands in errors, and
// its directory is where relative paths begin. What is wrong in data comes as
// one [*ConfigError] that holds all of it.
func ParseConfig(name string, data []byte) (*Config, error) {
	return parseConfig(name, filepath.Dir(name), data, os.Hostname)
}

func parseConfig(name, dir string, data []byte, hostname func() (string, error)) (*Config, error) {
	if len(data) > maxConfigSize {
		return nil, fmt.Errorf("configuration: %s is larger than %d octets", name, maxConfigSize)
	}
	c := DefaultConfig()
	d := newConfigDecoder(data)
	d.document(c)
	c.complete(dir)
	v := &configCheck{configDecoder: d, config: c}
	v.hostname(hostname)
	v.sections()
	v.doors()
	if len(d.problems) > 0 {
		return nil, d.failure(name)
	}
	return c, nil
}

// complete fills in the defaults that depend on what was set, and makes
// relative paths absolute, or relative to where dir is.
func (c *Config) complete(dir string) {
	resolve := func(paths ...*string) {
		for _, p := range paths {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(dir, *p)
			}
		}
	}
	if c.StateDir == "" {
		c.StateDir = DefaultConfig().StateDir
	}
	resolve(&c.StateDir, &c.SpoolDir, &c.Store.KeyFile, &c.Tickets.SecretFile)
	resolve(&c.Reports.Dir, &c.Reports.Relay.Path, &c.Tap.Dir)
	if path, ok := strings.CutPrefix(c.Admin.Listen, "unix:"); ok && path != "" {
		resolve(&path)
		c.Admin.Listen = "unix:" + path
	}
	for i := range c.Inbound {
		d := &c.Inbound[i]
		d.complete(numbered("inbound", i))
		resolve(&d.TLSCert, &d.TLSKey, &d.BackendCAFile, &d.Backend.Path,
			&d.Auth.DMARCTLDFile, &d.Auth.DMARCHistoryFile, &d.Auth.ARCKeyFile)
	}
	for i := range c.Outbound {
		d := &c.Outbound[i]
		d.complete(numbered("outbound", i))
		resolve(&d.TLSCert, &d.TLSKey, &d.TLSCAFile)
	}
}

func numbered(name string, i int) string {
	if i == 0 {
		return name
	}
	return name + "-" + strconv.Itoa(i+1)
}

// A ConfigError is everything that is wrong with a configuration file, in the
// order of the file.
type ConfigError struct {
	Problems []ConfigProblem
	More     int // how many problems are left out because there are so many
}

// A ConfigProblem is one thing that is wrong.
type ConfigProblem struct {
	File   string
	Line   int    // from 1
	Column int    // in octets, from 1
	Key    string // "inbound[0].listen[1]"; "" where no key is concerned
	Text   string // what is wrong, and what would be right
}

// Error returns all problems, each on its line.
func (e *ConfigError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.String())
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\n… and %d more", e.More)
	}
	return b.String()
}

// String returns "file:line:column: key: what is wrong".
func (p ConfigProblem) String() string {
	s := p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column) + ": "
	if p.Key != "" {
		s += p.Key + ": "
	}
	return s + p.Text
}

// failure sorts what was found wrong and gives it lines and columns.
func (d *configDecoder) failure(file string) error {
	slices.SortStableFunc(d.problems, func(a, b configFinding) int { return a.offset - b.offset })
	e := &ConfigError{}
	for i, p := range d.problems {
		if i == maxConfigProblems {
			e.More = len(d.problems) - i
			break
		}
		line, column := d.position(p.offset)
		e.Problems = append(e.Problems, ConfigProblem{File: file, Line: line, Column: column, Key: p.key, Text: p.text})
	}
	return e
}

var _ error = (*ConfigError)(nil)
