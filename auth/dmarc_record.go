package auth

import "strings"

const (
	// maxRecord is the longest record that is read; those in use have some hundred octets, and a resolver over UDP
	// gives no more than four thousand. A longer one is none.
	maxRecord = 8 << 10
	// maxReportURIs is the number of addresses kept of "rua" and of "ruf"; the rest is dropped. Report senders must
	// support two (https://www.rfc-editor.org/rfc/rfc9990#section-2).
	maxReportURIs = 16
)

// A Policy is what the owner of a domain asks to be done with mail that fails; its words are those of the record and
// of policy.dmarc. Empty: not said.
type Policy string

const (
	PolicyNone       Policy = "none"
	PolicyQuarantine Policy = "quarantine"
	PolicyReject     Policy = "reject"
)

// lowered is what a domain in test mode has applied. https://www.rfc-editor.org/rfc/rfc9989#section-4.7, "t"
func (p Policy) lowered() Policy {
	switch p {
	case PolicyReject:
		return PolicyQuarantine
	case PolicyQuarantine:
		return PolicyNone
	}
	return p
}

// An AlignmentMode says how alike two domains must be.
type AlignmentMode string

const (
	Relaxed AlignmentMode = "r" // the same organizational domain
	Strict  AlignmentMode = "s" // the same domain
)

// PSD tells whether a record stands at a public suffix.
type PSD string

const (
	PSDYes     PSD = "y"
	PSDNo      PSD = "n" // nor below one: it is an organizational domain
	PSDUnknown PSD = "u"
)

// A DMARCRecord is a DMARC Policy Record, https://www.rfc-editor.org/rfc/rfc9989#section-4.7, with its defaults filled
// in. Tags that were removed (pct, rf, ri) and those unknown are not kept.
type DMARCRecord struct {
	// P, SP and NP are the policies for the domain itself, for what is below it, and for what is below it and does not
	// exist. SP and NP are empty where the record does not have them. Where a policy is wrong or P is missing, and
	// somewhere to report to is given, P is none and the others are empty.
	P, SP, NP Policy
	// Defective says that a policy is wrong or P is missing, and there is nowhere to report to. Such a record ends the
	// search for another and asks for nothing. https://www.rfc-editor.org/rfc/rfc9989#section-4.10.1
	Defective bool

	PSD         PSD
	Testing     bool // t=y
	ADKIM, ASPF AlignmentMode

	RUA, RUF []ReportURI // at most 16 each, in order, only those that can be read
	FO       string      // for example "0" or "1:d:s"; "0" where RUF is empty

	Text string // the record as it stands in the DNS
}

// ParseRecord reads the text of one TXT record, its strings joined. It reports false for what is no DMARC record,
// which is as if it were not there: the first tag is not "v", or its value is not exactly DMARC1. Errors behind that
// tag never make a record invalid, they make their tag unsaid; of a tag that comes twice, the first is taken.
func ParseRecord(text string) (DMARCRecord, bool) {
	if len(text) > maxRecord {
		return DMARCRecord{}, false
	}
	version, rest, _ := strings.Cut(text, ";")
	name, value, ok := cutTag(version)
	if !ok || name != "v" || value != "DMARC1" || version[0] == ' ' || version[0] == '\t' {
		return DMARCRecord{}, false
	}
	tags := recordTags(rest)
	r := DMARCRecord{
		PSD:     PSD(oneOf(tags["psd"], string(PSDUnknown), string(PSDYes), string(PSDNo))),
		Testing: oneOf(tags["t"], "n", "y") == "y",
		ADKIM:   AlignmentMode(oneOf(tags["adkim"], string(Relaxed), string(Strict))),
		ASPF:    AlignmentMode(oneOf(tags["aspf"], string(Relaxed), string(Strict))),
		RUA:     parseReportURIs(tags["rua"]),
		RUF:     parseReportURIs(tags["ruf"]),
		FO:      "0",
		Text:    text,
	}
	if len(r.RUF) > 0 && validFO(tags["fo"]) {
		r.FO = strings.ToLower(tags["fo"])
	}
	r.setPolicies(tags)
	return r, true
}

// setPolicies applies https://www.rfc-editor.org/rfc/rfc9989#section-4.10.1.
func (r *DMARCRecord) setPolicies(tags map[string]string) {
	valid := true
	for _, tag := range []struct {
		name string
		into *Policy
	}{{"p", &r.P}, {"sp", &r.SP}, {"np", &r.NP}} {
		value, said := tags[tag.name]
		*tag.into = Policy(oneOf(value, "", string(PolicyNone), string(PolicyQuarantine), string(PolicyReject)))
		if *tag.into == "" && (said || tag.name == "p") {
			valid = false
		}
	}
	if !valid {
		r.P, r.SP, r.NP = PolicyNone, "", ""
		r.Defective = len(r.RUA) == 0
	}
}

// policyFor is the policy for the author domain. own: the record stands at that domain; absent: that domain does not
// exist.
func (r *DMARCRecord) policyFor(own, absent bool) Policy {
	p := r.P
	switch {
	case own:
	case absent && r.NP != "":
		p = r.NP
	case r.SP != "":
		p = r.SP
	}
	if r.Testing {
		return p.lowered()
	}
	return p
}

// recordTags takes tag lists apart. Tag names are in lower case; a value has no blanks around it. Values with octets
// that none may have are there, but empty, so that a tag that says nonsense is not taken for one that says nothing.
func recordTags(list string) map[string]string {
	tags := make(map[string]string)
	for spec := range strings.SplitSeq(list, ";") {
		name, value, ok := cutTag(spec)
		if !ok {
			continue
		}
		if _, again := tags[name]; again {
			continue
		}
		if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }) {
			value = ""
		}
		tags[name] = value
	}
	return tags
}

// cutTag splits "name = value". The names of tags are not case-sensitive, as the strings of ABNF are not.
func cutTag(spec string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(spec, "=")
	name = strings.ToLower(strings.Trim(name, " \t"))
	if !ok || name == "" || strings.ContainsFunc(name, func(c rune) bool { return c < 'a' || c > 'z' }) {
		return "", "", false
	}
	return name, strings.Trim(value, " \t"), true
}

// oneOf returns the member of words that value is, whatever its case, or else without.
func oneOf(value, without string, words ...string) string {
	for _, word := range words {
		if strings.EqualFold(value, word) {
			return word
		}
	}
	return without
}

// validFO reports whether s is a list of "0" or "1", "d" and "s", none of them twice, 0 and 1 not together.
func validFO(s string) bool {
	if s == "" {
		return false
	}
	var level, dkim, spf bool
	for option := range strings.SplitSeq(s, ":") {
		var seen *bool
		switch option {
		case "0", "1":
			seen = &level
		case "d", "D":
			seen = &dkim
		case "s", "S":
			seen = &spf
		default:
			return false
		}
		if *seen {
			return false
		}
		*seen = true
	}
	return true
}
