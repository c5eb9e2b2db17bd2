package proxy

import "fmt"

// What the service needs of open files: a connection has the client's socket,
// the next hop's and the file of a large body, and beside those there are the
// connections that are kept; the rest is for doors, log, names that are looked
// up, the certificates of a reload, and connections that are just being ended.
const (
	filesPerConnection = 3
	filesBeside        = 100 + maxPoolTasks + maxQuestions
	maxQuestions       = 256 + 1024 // to the DNS, of both resolvers, each with a socket
)

// A FileLimit compares how many files the system lets us have open with how many
// the limits can make us open.
type FileLimit struct {
	Has            uint64 // RLIMIT_NOFILE, the soft limit; 0 where the system has none
	Needs          uint64
	MaxConnections int
	MaxIdle        int // connections to hops that are kept
	MaxHops        int // open to hops at once, where that is configured; else 0
}

// OpenFiles raises the system's limit on open files as far as we may and returns
// what it is then, next to what limits ask for. An error says that the limit
// could not be read.
func OpenFiles(limits LimitsConfig) (FileLimit, error) {
	has, err := raiseFileLimit()
	f := FileLimit{
		Has:            has,
		MaxConnections: limits.MaxConnections,
		MaxIdle:        limits.MaxIdleConnections,
		MaxHops:        limits.MaxHopConnections,
	}
	f.Needs = uint64(f.MaxConnections)*f.perClient() + f.beside()
	return f, err
}

// perClient is what one client needs, with its connection to a hop where those are
// not counted on their own.
func (f FileLimit) perClient() uint64 {
	if f.MaxHops > 0 {
		return filesPerConnection - 1
	}
	return filesPerConnection
}

// beside is what is needed besides.
func (f FileLimit) beside() uint64 {
	if f.MaxHops > 0 {
		return uint64(f.MaxHops) + filesBeside
	}
	return uint64(f.MaxIdle) + filesBeside
}

// hops names what counts the connections to hops.
func (f FileLimit) hops() string {
	if f.MaxHops > 0 {
		return fmt.Sprintf("max_hop_connections = %d", f.MaxHops)
	}
	return fmt.Sprintf("max_idle_connections = %d", f.MaxIdle)
}

// Enough reports whether the limits can be reached.
func (f FileLimit) Enough() bool { return f.Has == 0 || f.Has >= f.Needs }

// String says what is there and, if that is not enough, which line to change.
func (f FileLimit) String() string {
	if f.Has == 0 {
		return "the system sets no limit"
	}
	if f.Enough() {
		return fmt.Sprintf("%d may be open; max_connections = %d and %s need %d", f.Has, f.MaxConnections, f.hops(), f.Needs)
	}
	each := "1 for each that is idle"
	if f.MaxHops > 0 {
		each = "1 for each to a hop"
	}
	s := fmt.Sprintf("%d may be open, but max_connections = %d and %s need %d (%d per connection, %s, and %d); "+
		"write LimitNOFILE=%d in the [Service] section of the unit",
		f.Has, f.MaxConnections, f.hops(), f.Needs, f.perClient(), each, filesBeside, f.Needs)
	if f.Has >= f.beside()+f.perClient() {
		s += fmt.Sprintf(", or max_connections = %d in [limits]", (f.Has-f.beside())/f.perClient())
	}
	return s
}
