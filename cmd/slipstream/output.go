package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// stdoutName is the name of a file that means standard output.
const stdoutName = "-"

// An output is a file that is asked for on the command line and filled at the end of long work. That it can be written is
// known at the beginning, and what was in it stays until there is something to take its place.
type output struct {
	name string
	file *os.File // under another name until the end; nil: standard output
	temp bool
}

// openOutput makes room for a file; nil for no name.
func openOutput(name string) (*output, error) {
	switch name {
	case "":
		return nil, nil
	case stdoutName:
		return &output{name: name}, nil
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0) // a pipe, or /dev/null
		return &output{name: name, file: f}, err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return nil, fmt.Errorf("%s cannot be written: %w", name, err)
	}
	return &output{name: name, file: f, temp: true}, nil
}

// fill writes the file, or standard output.
func (o *output) fill(stdout io.Writer, write func(io.Writer) error) error {
	if o.file == nil {
		return write(stdout)
	}
	err := errors.Join(write(o.file), o.file.Close())
	if !o.temp {
		return err
	}
	if err == nil {
		err = errors.Join(os.Chmod(o.file.Name(), 0o644), os.Rename(o.file.Name(), o.name))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(o.file.Name()))
	}
	return err
}

// discard gives the room back.
func (o *output) discard() {
	if o.file != nil {
		_ = o.file.Close() // nothing was written
	}
	if o.temp {
		_ = os.Remove(o.file.Name()) // an empty file of ours, with a dot
	}
}

// outputs are the files of one command, in the order in which they were asked for.
type outputs []*output

// openOutputs makes room for all of them, or for none. Those without a name are nil.
func openOutputs(names ...string) (outputs, error) {
	var all outputs
	for _, name := range names {
		o, err := openOutput(name)
		if err != nil {
			all.discard()
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

func (all outputs) discard() {
	for _, o := range all {
		if o != nil {
			o.discard()
		}
	}
}

// fill fills them, each with its own, and the table goes to standard output unless one of them does.
func (all outputs) fill(stdout io.Writer, table func(io.Writer) error, writers ...func(io.Writer) error) error {
	var errs []error
	for i, o := range all {
		if o == nil {
			continue
		}
		if o.name == stdoutName {
			table = nil
		}
		errs = append(errs, o.fill(stdout, writers[i]))
	}
	if table != nil {
		errs = append(errs, table(stdout))
	}
	return errors.Join(errs...)
}
