package failure

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"slipstream/auth"
)

// dateFormat is that of https://www.rfc-editor.org/rfc/rfc5322#section-3.3
const dateFormat = "Mon, 02 Jan 2006 15:04:05 -0700"

// maxMailbox is the longest return path that is told: https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.3, with
// room for the local parts that mailing lists use.
const maxMailbox = 520

// A feedback is the part that programs read.
// https://www.rfc-editor.org/rfc/rfc5965#section-3, https://www.rfc-editor.org/rfc/rfc6591#section-3,
// https://www.rfc-editor.org/rfc/rfc9991#section-4
type feedback struct{ bytes.Buffer }

// field writes a field whose value is in ASCII and has no line end.
func (f *feedback) field(name, value string) {
	if value = strings.Trim(value, " "); value != "" {
		f.WriteString(fold(name+": "+value) + "\r\n")
	}
}

// feedbackOf tells of an incident. spf is the record at in.spfDomain; empty: it is not known.
func (r *Reporter) feedbackOf(in *incident, spf string) []byte {
	var f feedback
	f.field("Feedback-Type", "auth-failure")
	f.field("Version", "1")
	f.field("User-Agent", r.config.UserAgent)
	f.field("Auth-Failure", string(in.kind))
	if in.results != nil {
		f.Write(in.results)
	} else { // the field is required, and its id was none
		f.Write(auth.Results{ID: r.config.Hostname}.Field())
	}
	f.field("Identity-Alignment", in.alignment)
	f.field("Delivery-Result", in.delivery)
	f.field("Original-Envelope-Id", clean(in.id))
	if printable(in.mailFrom) && len(in.mailFrom) <= maxMailbox && !strings.ContainsAny(in.mailFrom, " <>") {
		f.field("Original-Mail-From", "<"+in.mailFrom+">")
	}
	if in.client.IsValid() {
		f.field("Source-IP", in.client.String())
		if in.port != 0 { // https://www.rfc-editor.org/rfc/rfc6692#section-2
			f.field("Source-Port", strconv.Itoa(int(in.port)))
		}
	}
	f.field("Reported-Domain", in.author)
	f.field("Arrival-Date", in.received.Format(dateFormat))
	f.field("Reporting-MTA", "dns; "+r.config.Hostname)
	if in.count > 1 {
		f.field("Incidents", strconv.Itoa(in.count))
	}
	f.dkim(in)
	if spf != "" {
		f.field("SPF-DNS", "txt : "+in.spfDomain+" : "+quoted(spf))
	}
	return f.Bytes()
}

// dkim tells of the signature that failed.
func (f *feedback) dkim(in *incident) {
	d := in.dkim
	if d.Domain == "" {
		return
	}
	identity := d.Identity
	if !printable(identity) || len(identity) > maxMailbox || !strings.Contains(identity, "@") {
		identity = "@" + d.Domain // what it is where the signature does not say
	}
	f.field("DKIM-Domain", d.Domain)
	f.field("DKIM-Identity", identity)
	f.field("DKIM-Selector", d.Selector)
}

// explain says the same to people.
func explain(in *incident) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("This is a report about a message that failed authentication.")
	line("")
	line("It says that it is from:     %s", in.author)
	line("What failed:                 %s", in.kind)
	line("Without an aligned result:   %s", in.alignment)
	if in.client.IsValid() {
		line("It came from the address:    %s", in.client)
	}
	line("It came at:                  %s", in.received.Format(dateFormat))
	if in.count > 1 {
		line("Messages like it since the last report, this one included: %d", in.count)
	}
	line("")
	line("The DMARC record of %s asks for such reports", in.policyDomain)
	line("(\"ruf\"). Below are the same for programs, and the header of the message.")
	if in.header.cut {
		line("The header is longer than what is told of it.")
	}
	line("The message itself is not told.")
	return b.String()
}
