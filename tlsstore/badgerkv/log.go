package badgerkv

import (
	"fmt"
	"strings"
)

// maxLog bounds one message, in octets: Badger shows whole tables of contents when it is confused.
const maxLog = 500

// A logger passes on what Badger says, each message on one line of bounded length. Without a function it is silent.
type logger struct {
	log func(level, msg string)
}

func (l logger) Errorf(format string, args ...any) { l.say("error", format, args) }

// Warningf is for what people should know. That a cache is small is not: ours are meant to be.
func (l logger) Warningf(format string, args ...any) {
	level := "warn"
	if strings.Contains(format, "might be too small") || strings.HasPrefix(format, "Cache life expectancy") {
		level = "debug"
	}
	l.say(level, format, args)
}

// Infof is for debugging: what Badger calls information is of interest to nobody else.
func (l logger) Infof(format string, args ...any) { l.say("debug", format, args) }

// Debugf says nothing, since it is called for every write, and with keys.
func (l logger) Debugf(string, ...any) {}

func (l logger) say(level, format string, args []any) {
	if l.log == nil {
		return
	}
	// Some of what Badger logs is no format: a stray % is better than none of it.
	msg := format
	if len(args) > 0 {
		msg = fmt.Sprintf(format, args...)
	}
	if msg = oneLine(msg); msg != "" {
		l.log(level, msg)
	}
}

// oneLine makes one line of printable characters and bounded length out of anything.
func oneLine(s string) string {
	if len(s) > maxLog {
		s = s[:maxLog] + "…"
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.Join(strings.Fields(s), " ")
}
