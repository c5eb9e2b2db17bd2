package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"slipstream/bench"
)

func clientWords(c bench.Client) string {
	switch c {
	case bench.Old:
		return "old MTA"
	case bench.Pipelining:
		return "pipelining MTA"
	case bench.Chunking:
		return "chunking MTA"
	case bench.Early:
		return "early MTA"
	case bench.Exim:
		return "Exim"
	case bench.Postfix:
		return "Postfix"
	}
	return string(c)
}

func serverWords(s bench.Server) string {
	switch s {
	case bench.OldServer:
		return "old server"
	case bench.ModernServer:
		return "modern server"
	case bench.EximServer:
		return "Exim"
	case bench.PostfixServer:
		return "Postfix"
	}
	return string(s)
}

// sideWords says on which side Slipstream stands.
func sideWords(d bench.Direction) string {
	switch d {
	case bench.Outbound:
		return "sending"
	case bench.Inbound:
		return "receiving"
	}
	return string(d)
}

func channelWords(c bench.Channel) string {
	switch c {
	case bench.Clear:
		return "in clear"
	case bench.StartTLS12:
		return "STARTTLS, TLS 1.2"
	case bench.StartTLS13:
		return "STARTTLS, TLS 1.3"
	case bench.Implicit:
		return "TLS on connect"
	}
	return string(c)
}

func stateWords(s bench.State, fastOpen bool) string {
	words := string(s)
	switch s {
	case bench.FirstContact:
		words = "first contact"
	case bench.Known:
		words = "met before"
	case bench.Resumed:
		words = "TLS session kept"
	case bench.Warm:
		words = "connection kept"
	}
	if fastOpen {
		words += ", Fast Open"
	}
	return words
}

// whoWords names the two ends.
func whoWords(s bench.Scenario) string {
	return clientWords(s.Client) + " → " + serverWords(s.Server)
}

// howWords is the rest of the scenario.
func howWords(s bench.Scenario) string {
	return strings.Join([]string{sideWords(s.Direction), channelWords(s.Channel), stateWords(s.State, s.FastOpen)}, " · ")
}

// wholeTrips is how far from a whole number of trips a figure may be and still be told as one in a headline: the time
// that the two ends took for themselves.
const wholeTrips = 0.15

// tooMany is a number of trips that no message takes; it is written with an exponent, so that it stays short.
const tooMany = 1e6

// tripsShort writes a number of trips for a headline: "7", "4.4".
func tripsShort(trips float64) string {
	if math.Abs(trips) >= tooMany {
		return strconv.FormatFloat(trips, 'g', 2, 64)
	}
	if whole := math.Round(trips); math.Abs(trips-whole) <= wholeTrips {
		return strconv.FormatFloat(whole+0, 'f', 0, 64)
	}
	return strconv.FormatFloat(trips, 'f', 1, 64)
}

// tripsWords writes the same with its noun.
func tripsWords(trips float64) string {
	if s := tripsShort(trips); s != "1" {
		return s + " trips"
	}
	return "1 trip"
}

// secondsWords writes a duration for a headline: "0.70 s", "12.4 s", and below 95 ms "40 ms".
func secondsWords(d time.Duration) string {
	switch s := d.Seconds(); {
	case d < 95*time.Millisecond:
		return milliWords(d) + " ms"
	case s < 9.995:
		return strconv.FormatFloat(s, 'f', 2, 64) + " s"
	default:
		return strconv.FormatFloat(s, 'f', 1, 64) + " s"
	}
}

// milliWords writes a duration in milliseconds: one decimal below a hundred.
func milliWords(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if math.Abs(ms) < 99.95 {
		return strings.TrimSuffix(strconv.FormatFloat(ms, 'f', 1, 64), ".0")
	}
	return strconv.FormatFloat(ms, 'f', 0, 64)
}

// rttWords writes the trip time of a link.
func rttWords(d time.Duration) string { return milliWords(d) + " ms" }

// sizeWords writes a number of octets for reading: "2 KB".
func sizeWords(octets int) string {
	name := bench.SizeName(octets)
	for i, c := range name {
		if !unicode.IsDigit(c) && c != '-' {
			return name[:i] + " " + name[i:]
		}
	}
	return name
}

// clean makes text of unknown origin fit for one line: nothing in it moves the cursor of a terminal, or turns the
// direction of what stands beside it. https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// wrap breaks text into lines of at most width characters, at blanks, and where there are none in the middle of a word.
func wrap(text string, width int) []string {
	width = max(width, 1)
	var lines []string
	var line []rune
	flush := func() {
		if len(line) > 0 {
			lines = append(lines, string(line))
			line = nil
		}
	}
	for _, word := range strings.Fields(text) {
		w := []rune(word)
		if len(line) > 0 && len(line)+1+len(w) <= width {
			line = append(append(line, ' '), w...)
			continue
		}
		flush()
		for len(w) > width {
			lines = append(lines, string(w[:width]))
			w = w[width:]
		}
		line = w
	}
	flush()
	return lines
}

// A fact is a circumstance with its name.
type fact struct {
	Name  string
	Lines []string
}

// factList puts the circumstances in the order in which they are read; what is not known is left out.
func factList(f bench.Facts) []fact {
	var all []fact
	add := func(name string, lines ...string) {
		if len(lines) > 0 && lines[0] != "" {
			all = append(all, fact{name, lines})
		}
	}
	if !f.Begun.IsZero() {
		took := ""
		if f.Took > 0 {
			took = fmt.Sprintf(", took %s", f.Took.Round(time.Second))
		}
		add("measured", f.Begun.Format("2006-01-02 15:04 MST")+took)
	}
	add("on", f.Ground)
	add("link", f.Link)
	add("slipstream", f.Version)
	platform := ""
	if f.OS != "" && f.Arch != "" {
		platform = f.OS + "/" + f.Arch
	}
	add("go", strings.TrimSpace(f.Go+" "+platform))
	add("system", f.System)
	add("peers", f.Peers...)
	add("TLS sessions", f.Tickets)
	add("sysctls", f.Sysctls...)
	add("mind", f.Warnings...)
	return all
}
