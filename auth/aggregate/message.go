package aggregate

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/mail"
	"time"
)

const (
	base64Line = 76      // https://www.rfc-editor.org/rfc/rfc2045#section-6.8
	aboutMail  = 4 << 10 // octets that header and text take at most, without names
)

// overhead is what the message has besides the document.
func (r *Report) overhead() int {
	return aboutMail + 6*(len(r.Published.Domain)+len(r.config.Submitter)) + 3*(len(r.config.OrgName)+len(r.config.Email))
}

// base64Size is what n octets take, line ends included.
func base64Size(n int) int {
	size := base64.StdEncoding.EncodedLen(n)
	return size + 2*(size/base64Line+1)
}

// Message returns the message to one recipient, a mailbox of printable ASCII. It differs in nothing but the date from
// one that was sent before. https://www.rfc-editor.org/rfc/rfc9990#section-3.5.2
func (r *Report) Message(to string, date time.Time) []byte {
	var b bytes.Buffer
	b.Grow(r.overhead() + base64Size(len(r.Compressed)))
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	from := mail.Address{Name: r.config.OrgName, Address: r.config.Email}
	boundary := "report_" + r.ID
	domain, submitter := r.Published.Domain, r.config.Submitter

	line("From: %s", from.String())
	line("To: <%s>", to)
	line("Subject: Report Domain: %s\r\n Submitter: %s\r\n Report-ID: <%s>", domain, submitter, r.ID)
	line("Date: %s", date.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	line("Message-ID: <%s@%s>", r.ID, submitter)
	line("Auto-Submitted: auto-generated") // https://www.rfc-editor.org/rfc/rfc3834#section-5
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/mixed; boundary=%q", boundary)
	line("")
	line("--%s", boundary)
	line("Content-Type: text/plain; charset=us-ascii")
	line("")
	line("This is an aggregate DMARC report on %s", domain)
	line("by %s", submitter)
	line("for %s (UTC). Messages: %d, rows: %d.", r.Day, r.Messages, r.Rows)
	line("It was made by a program, for programs; RFC 9990 describes it.")
	line("")
	line("--%s", boundary)
	line("Content-Type: application/gzip;\r\n name=%q", r.Filename())
	line("Content-Disposition: attachment;\r\n filename=%q", r.Filename())
	line("Content-Transfer-Encoding: base64")
	line("")
	writeBase64(&b, r.Compressed)
	line("--%s--", boundary)
	return b.Bytes()
}

func writeBase64(b *bytes.Buffer, data []byte) {
	const perLine = base64Line / 4 * 3
	for len(data) > 0 {
		n := min(perLine, len(data))
		b.Write(base64.StdEncoding.AppendEncode(b.AvailableBuffer(), data[:n]))
		b.WriteString("\r\n")
		data = data[n:]
	}
}
