package failure

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"time"
)

// A part of a report.
type part struct {
	mediaType string
	encoding  string
	body      []byte
}

// write returns the whole report on an incident to a mailbox, in lines of ASCII that end in CRLF and are not too long.
// https://www.rfc-editor.org/rfc/rfc5965#section-2, https://www.rfc-editor.org/rfc/rfc6522#section-3
func (r *Reporter) write(in *incident, to, spf string, now time.Time) []byte {
	encoding, header := encode(in.header.text)
	parts := []part{
		{"text/plain; charset=us-ascii", "7bit", []byte(explain(in))},
		{"message/feedback-report", "7bit", r.feedbackOf(in, spf)},
		{"text/rfc822-headers", encoding, header},
	}
	boundary := rand.Text()
	for stands(boundary, parts) { // which nobody could have known
		boundary = rand.Text()
	}
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("From: %s", fold(r.from.String()))
	line("To: %s", to)
	line("Date: %s", now.Format(dateFormat))
	line("Subject: %s", fold("Failure report: "+string(in.kind)+" "+in.author))
	line("Message-ID: <%s@%s>", rand.Text(), r.config.Hostname)
	line("Auto-Submitted: auto-generated") // https://www.rfc-editor.org/rfc/rfc3834#section-5
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=feedback-report;\r\n boundary=%q", boundary)
	for _, p := range parts {
		line("")
		line("--%s", boundary)
		line("Content-Type: %s", p.mediaType)
		line("Content-Transfer-Encoding: %s", p.encoding)
		line("")
		b.Write(p.body)
	}
	line("")
	line("--%s--", boundary)
	return b.Bytes()
}

func stands(boundary string, parts []part) bool {
	for _, p := range parts {
		if bytes.Contains(p.body, []byte(boundary)) {
			return true
		}
	}
	return false
}
