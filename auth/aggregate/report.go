package aggregate

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"slipstream/auth"
)

// Config says who reports.
type Config struct {
	// Submitter is the domain name of the host that reports, which stands in the subject and in file names. It must be
	// set.
	Submitter string
	// OrgName is who reports, in words; empty: Submitter.
	OrgName string
	// Email is the address that reports come from, and where their readers turn to; empty: postmaster at Submitter. Its
	// domain must pass DMARC where reports arrive, which is up to the MTA that sends them.
	// https://www.rfc-editor.org/rfc/rfc9990#section-3.5.2
	Email string
	// ContactInfo is a further way to reach the reporter, such as a URL; may be empty.
	ContactInfo string
	// Generator is the name and version of the program; empty: "slipstream".
	Generator string
	// MaxMessage is the size of the largest message that is sent, in octets; 0: DefaultMaxMessage. A report that does
	// not fit is split.
	MaxMessage int
}

// DefaultMaxMessage is what every receiver takes: 10 MB and some are the smallest limits that are met.
const DefaultMaxMessage = 10_000_000

const (
	minMaxMessage = 16 << 10 // what a report with one row takes, and more
	maxWords      = 200      // octets of what the configuration says in words
)

// complete fills in what is empty.
func (c Config) complete() (Config, error) {
	submitter, ok := auth.CanonicalDomain(c.Submitter)
	if !ok {
		return c, fmt.Errorf("reports: the reporting host %.80q is not a domain name", c.Submitter)
	}
	c.Submitter = submitter
	c.OrgName = cmp.Or(printable(c.OrgName), submitter)
	c.Email = cmp.Or(c.Email, "postmaster@"+submitter)
	at := strings.LastIndexByte(c.Email, '@')
	domain, ok := auth.CanonicalDomain(c.Email[at+1:])
	if at <= 0 || !ok || strings.ContainsFunc(c.Email[:at], notInLocalPart) {
		return c, fmt.Errorf("reports: the email address %.80q cannot be used", c.Email)
	}
	c.Email = c.Email[:at+1] + domain
	c.ContactInfo = printable(c.ContactInfo)
	c.Generator = cmp.Or(printable(c.Generator), "slipstream")
	if c.MaxMessage <= 0 {
		c.MaxMessage = DefaultMaxMessage
	}
	c.MaxMessage = max(c.MaxMessage, minMaxMessage)
	return c, nil
}

// printable is what can be printed of words in any script.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c == unicode.ReplacementChar || !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, s)
	for len(s) > maxWords {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// notInLocalPart tells what would have to be quoted.
func notInLocalPart(c rune) bool {
	return c <= ' ' || c > '~' || strings.ContainsRune("\"(),:;<>@[\\]", c)
}

// A Report is one aggregate report, as it is sent.
type Report struct {
	ID        string // Report-ID: letters and digits
	Day       Day
	Published Published // the policy that it is on
	Rows      int
	Messages  int64 // in all rows

	// Addresses are those of the policy record, not yet asked whether they want reports: see [Recipients].
	Addresses []auth.ReportURI

	// Compressed is the XML document in gzip form.
	Compressed []byte
	// Octets is the size of the document.
	Octets int64

	config Config
}

// Filename is the name of the attachment. It is the same whenever the report is sent.
// https://www.rfc-editor.org/rfc/rfc9990#section-3.5.2
func (r *Report) Filename() string {
	return fmt.Sprintf("%s!%s!%d!%d!%s.xml.gz", r.config.Submitter, r.Published.Domain, r.Day.Begin().Unix(),
		r.lastSecond(), r.ID)
}

// lastSecond is the end of the period, which belongs to it.
func (r *Report) lastSecond() int64 { return r.Day.End().Unix() - 1 }

// WriteXML writes the document.
func (r *Report) WriteXML(w io.Writer) error {
	z, err := gzip.NewReader(bytes.NewReader(r.Compressed))
	if err != nil {
		return err
	}
	_, err = io.Copy(w, z) // it is ours, and as large as Octets
	return errors.Join(err, z.Close())
}

// emit makes a report of rows, or several where it would be too large to be sent.
func (m *maker) emit(p Published, addresses func() []auth.ReportURI, rows []countedRow, part string) error {
	r := &Report{
		ID: m.reportID(p, part), Day: m.day, Published: p, Rows: len(rows), Addresses: addresses(), config: m.config,
	}
	for _, row := range rows {
		r.Messages += row.count
	}
	room := m.config.MaxMessage - r.overhead()
	var packed bytes.Buffer
	z := m.compressor(&packed)
	counter := &countingWriter{w: z}
	err := r.writeXML(counter, rows)
	if err = errors.Join(err, z.Close()); err != nil {
		return err
	}
	if base64Size(packed.Len()) <= room {
		r.Compressed, r.Octets = packed.Bytes(), counter.n
		return m.yield(r)
	}
	packed = bytes.Buffer{}
	if len(rows) == 1 {
		m.leave(rows)
		return nil
	}
	half := len(rows) / 2
	if err := m.emit(p, addresses, rows[:half], part+".1"); err != nil {
		return err
	}
	return m.emit(p, addresses, rows[half:], part+".2")
}

// compressor is one for all documents, since it takes much memory.
func (m *maker) compressor(w io.Writer) *gzip.Writer {
	if m.gzip == nil {
		m.gzip = gzip.NewWriter(w)
	}
	m.gzip.Reset(w)
	return m.gzip
}

// reportID is made of all that tells a report from others: who reports, on what, when, and which part it is.
// https://www.rfc-editor.org/rfc/rfc9990#section-3.5.1
func (m *maker) reportID(p Published, part string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%x %s %s %s %+v", m.installation, m.config.Submitter, m.day, part, p) // never fails
	const digits = 24                                                                     // 120 bits
	text := base32.StdEncoding.EncodeToString(h.Sum(nil))[:digits]
	return strings.ReplaceAll(m.day.String(), "-", "") + strings.ToLower(text)
}

// A countingWriter counts what is written.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
