//go:build !unix

package mta

// whenEnded calls f once the tool has ended.
func (t *Tool) whenEnded(func()) {}

// PID returns the process id of the program itself.
func (t *Tool) PID() (int, error) { return 0, ErrUnavailable }
