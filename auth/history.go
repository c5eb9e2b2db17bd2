package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A HistoryRecord is what the history file says of one message. opendmarc-import reads it and opendmarc-reports makes
// aggregate reports of it. Names and values are checked when it is written: none can begin a line of its own.
type HistoryRecord struct {
	// Job names the message and Reporter the host that received it. Both together with Received must be unique.
	Job, Reporter string
	Received      time.Time
	IP            netip.Addr // client

	// MailFrom is the domain of the return path, "" for the null path, and Helo the name that the client gave itself.
	// Where neither is a domain name, the author domain stands in: a record without one is lost on import.
	MailFrom, Helo string

	SPF    string // result of SPF; "" if it was not checked
	DKIM   []HistoryDKIM
	ARC    string // result of ARC; "" if it was not checked
	Seals  []HistorySeal
	Action Action // what was done with the message; "" is ActionAccept

	// Verdict is what DMARC made of the message. Without a record in it there is nothing to report.
	Verdict Verdict
}

// HistoryDKIM is the result of one signature.
type HistoryDKIM struct{ Domain, Selector, Result string }

// HistorySeal is one set of an ARC chain: who sealed it, and whom that host had the message from, if it said so.
type HistorySeal struct {
	Instance         int
	Domain, Selector string
	IP               netip.Addr
}

// ErrNoPolicy is the error for a message whose author domain has no policy record: the file has none of these.
var ErrNoPolicy = errors.New("history: there is no policy to report on")

// Bounds of a record: what the columns of opendmarc's database take, and what a message is checked for.
const (
	maxHistoryJob  = 128 // jobid VARCHAR(128)
	maxHistoryRUA  = 255 // repuri VARCHAR(255), all of them with commas between
	maxHistoryDKIM = 100 // sigcount TINYINT
	maxHistorySeal = 50  // https://www.rfc-editor.org/rfc/rfc8617#section-4.2.1
)

// Append appends the lines of h to dst. It fails for a record that could not be imported, and leaves out signatures,
// seals and addresses for reports that could not be.
func (h HistoryRecord) Append(dst []byte) ([]byte, error) {
	v := h.Verdict
	if v.Record == nil {
		return dst, ErrNoPolicy
	}
	reporter, ok1 := writtenDomain(h.Reporter)
	from, ok2 := writtenDomain(v.Domain)
	policyDomain, ok3 := writtenDomain(v.PolicyDomain)
	switch {
	case !isHistoryJob(h.Job):
		return dst, fmt.Errorf("history: %.40q cannot name a message", h.Job)
	case !ok1:
		return dst, fmt.Errorf("history: the reporter %.40q is not a domain name", h.Reporter)
	case !ok2:
		return dst, fmt.Errorf("history: the author domain %.40q is not a domain name", v.Domain)
	case !ok3:
		return dst, fmt.Errorf("history: the policy domain %.40q is not a domain name", v.PolicyDomain)
	case !h.IP.IsValid():
		return dst, errors.New("history: the client has no IP address")
	case h.Received.Unix() <= 0:
		return dst, errors.New("history: the time of receipt is missing")
	}
	w := historyWriter{b: dst}
	w.line("job", h.Job)
	w.line("reporter", reporter)
	w.number("received", h.Received.Unix())
	w.line("ipaddr", h.IP.Unmap().WithZone("").String())
	w.line("from", from)
	w.line("mfrom", h.returnDomain(from))
	w.number("spf", resultNumber(h.SPF))
	w.signatures(h.DKIM)
	w.policy(v, policyDomain)
	w.number("align_dkim", alignedNumber(v.DKIMAligned))
	w.number("align_spf", alignedNumber(v.SPFAligned))
	w.number("action", actionNumber(h.Action))
	w.number("arc", arcNumber(h.ARC))
	if err := w.seals(h.arcPolicy(), h.Seals); err != nil {
		return dst, err
	}
	return w.b, nil
}

// returnDomain is never empty and never "-".
func (h HistoryRecord) returnDomain(from string) string {
	for _, domain := range []string{h.MailFrom, h.Helo} {
		if domain, ok := writtenDomain(domain); ok {
			return domain
		}
	}
	return from
}

// isHistoryJob: what needs no quoting anywhere, and is not "-", which stands for nothing.
func isHistoryJob(s string) bool {
	return len(s) <= maxHistoryJob && strings.Trim(s, ".-_") != "" &&
		strings.IndexFunc(s, func(r rune) bool { return notInKeyword(r) && r != '.' }) < 0
}

// historyWriter appends lines. Its callers see to it that values have neither blanks nor line ends.
type historyWriter struct{ b []byte }

func (w *historyWriter) line(key string, values ...string) {
	w.b = append(w.b, key...)
	for _, v := range values {
		w.b = append(w.b, ' ')
		w.b = append(w.b, v...)
	}
	w.b = append(w.b, '\n')
}

func (w *historyWriter) number(key string, n int64) { w.line(key, strconv.FormatInt(n, 10)) }

// signatures always says the selector: a line without one is imported as another signature.
func (w *historyWriter) signatures(signatures []HistoryDKIM) {
	written := 0
	for _, s := range signatures {
		domain, ok1 := writtenDomain(s.Domain)
		selector, ok2 := writtenDomain(s.Selector)
		if ok1 && ok2 && written < maxHistoryDKIM {
			w.line("dkim", domain, selector, strconv.FormatInt(resultNumber(s.Result), 10))
			written++
		}
	}
}

func (w *historyWriter) policy(v Verdict, domain string) {
	w.line("pdomain", domain)
	w.number("policy", appliedNumber(v))
	total := 0
	for _, uri := range v.Record.RUA {
		if isHistoryURI(uri.Text) && total+len(uri.Text) <= maxHistoryRUA {
			w.line("rua", uri.Text)
			total += len(uri.Text) + len(",")
		}
	}
	if total == 0 {
		w.line("rua", "-")
	}
	w.number("pct", 100) // no longer a tag: https://www.rfc-editor.org/rfc/rfc9989#appendix-A.6
	w.number("adkim", modeNumber(v.Record.ADKIM))
	w.number("aspf", modeNumber(v.Record.ASPF))
	w.number("p", policyNumber(v.Record.P))
	w.number("sp", policyNumber(v.Record.SP))
}

// isHistoryURI: characters of a URI. A comma would divide it, "-" stand for nothing.
func isHistoryURI(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ',' }) < 0 &&
		strings.Contains(s, ":")
}

// seals writes the chain as JSON behind "json:"; at anything else the import ends, with all that is still to come.
func (w *historyWriter) seals(policy int64, seals []HistorySeal) error {
	type set struct {
		Instance int    `json:"i"`
		Domain   string `json:"d"`
		Selector string `json:"s"`
		IP       string `json:"ip"`
	}
	list := []set{}
	var seen [maxHistorySeal + 1]bool // the database has one row for an instance
	for _, s := range seals {
		domain, ok1 := writtenDomain(s.Domain)
		selector, ok2 := writtenDomain(s.Selector)
		if !ok1 || !ok2 || s.Instance < 1 || s.Instance > maxHistorySeal || seen[s.Instance] {
			continue
		}
		seen[s.Instance] = true
		one := set{Instance: s.Instance, Domain: domain, Selector: selector}
		if s.IP.IsValid() {
			one.IP = s.IP.Unmap().WithZone("").String()
		}
		list = append(list, one)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	w.line("arc_policy", strconv.FormatInt(policy, 10), "json:"+string(text))
	return nil
}

// The numbers are those of libopendmarc.

func resultNumber(result string) int64 {
	switch result {
	case ResultPass:
		return 0
	case ResultSoftfail:
		return 2
	case ResultNeutral:
		return 3
	case ResultTemperror:
		return 4
	case ResultPermerror:
		return 5
	case ResultNone, "":
		return 6
	case ResultFail:
		return 7
	case ResultPolicy:
		return 8
	}
	return 11 // unknown
}

func arcNumber(result string) int64 {
	switch result {
	case ResultPass, ResultFail:
		return resultNumber(result)
	}
	return 11
}

// arcPolicy says what became of the chain: it decided, it was not needed, it did not help.
func (h HistoryRecord) arcPolicy() int64 {
	switch {
	case h.Verdict.Sealer != "":
		return 0
	case h.ARC == ResultPass && h.Verdict.Result == ResultFail:
		return 2
	}
	return 1
}

// appliedNumber: that the message passed, or else what its domain asks for.
func appliedNumber(v Verdict) int64 {
	switch {
	case v.Result == ResultPass:
		return 15
	case v.Policy == PolicyReject:
		return 16
	case v.Policy == PolicyQuarantine:
		return 17
	}
	return 18
}

func alignedNumber(aligned bool) int64 {
	if aligned {
		return 4
	}
	return 5
}

func modeNumber(mode AlignmentMode) int64 {
	if mode == Strict {
		return 's'
	}
	return 'r'
}

func policyNumber(p Policy) int64 {
	switch p {
	case PolicyNone:
		return 'n'
	case PolicyQuarantine:
		return 'q'
	case PolicyReject:
		return 'r'
	}
	return 0
}

func actionNumber(a Action) int64 {
	switch a {
	case ActionReject:
		return 0
	case ActionQuarantine:
		return 4
	}
	return 2
}
