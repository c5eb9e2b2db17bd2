package aggregate

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"slipstream/auth"
)

// Bounds of a record. What the methods find is bounded by themselves, and less tightly.
const (
	// MaxRecipients is how many addresses of one policy record get reports, the first of those that want them.
	// https://www.rfc-editor.org/rfc/rfc9990#section-3.5 leaves the number to us.
	MaxRecipients = 8

	maxURI        = 512 // octets of an address for reports, as it stands in the record
	maxFO         = 16  // "0:1:d:s" is 7
	maxSignatures = 10  // https://www.rfc-editor.org/rfc/rfc9990#section-3.1.3 has 100
	maxReasons    = 4
	maxComment    = 200
	maxHuman      = 80
)

// A Record is what one message adds to the reports on one policy domain. Names in it are canonical domains, words those
// of the report's schema.
type Record struct {
	Published Published `json:"p"`
	Row       Row       `json:"r"`
}

// Published is the policy that was found, with its defaults filled in.
// https://www.rfc-editor.org/rfc/rfc9990#section-3.1.1.5
type Published struct {
	Domain  string   `json:"d"`            // the policy domain
	Org     string   `json:"o,omitempty"`  // its organization, as far as that is known
	Method  string   `json:"m"`            // how it was found: treewalk, psl
	P       string   `json:"p"`            // none, quarantine, reject; so are
	SP      string   `json:"sp"`           // for what is below the domain
	NP      string   `json:"np"`           // for what is below it and does not exist
	FO      string   `json:"fo,omitempty"` // failure reporting options
	ADKIM   string   `json:"ad"`           // r, s
	ASPF    string   `json:"as"`
	Testing bool     `json:"t,omitempty"`
	RUA     []string `json:"rua"` // URIs as they stand in the policy record, all of them mailto
}

// Row is what is counted: messages that are alike in all of this are one row of a report.
type Row struct {
	IP          string      `json:"ip"`
	Disposition string      `json:"do"` // none, pass, quarantine, reject
	DKIM        bool        `json:"k,omitempty"`
	SPF         bool        `json:"s,omitempty"` // is an aligned identifier authenticated?
	Reasons     []Reason    `json:"why,omitempty"`
	HeaderFrom  string      `json:"hf"`
	MailFrom    string      `json:"mf,omitempty"` // domain of MAIL FROM; "<>" for the null path, "" where it is none
	Signatures  []Signature `json:"sig,omitempty"`
	SPFDomain   string      `json:"sd,omitempty"` // "": there is no result of SPF
	SPFResult   string      `json:"sr,omitempty"`
	SPFHuman    string      `json:"sh,omitempty"`
}

// A Signature is the result of a DKIM signature.
type Signature struct {
	Domain   string `json:"d"`
	Selector string `json:"s"`
	Result   string `json:"r"`
	Human    string `json:"h,omitempty"` // the result in words of ours
}

// A Reason says why something else was done than the policy asks for.
type Reason struct {
	Type    string `json:"t"`
	Comment string `json:"c,omitempty"`
}

// Types of reasons. https://www.rfc-editor.org/rfc/rfc9990#section-3.1.6
const (
	reasonLocalPolicy      = "local_policy"
	reasonMailingList      = "mailing_list"
	reasonOther            = "other"
	reasonTestMode         = "policy_test_mode"
	reasonTrustedForwarder = "trusted_forwarder"
)

// Dispositions. https://www.rfc-editor.org/rfc/rfc9990#section-3.1.1.9
const (
	dispositionNone       = "none"
	dispositionPass       = "pass"
	dispositionQuarantine = "quarantine"
	dispositionReject     = "reject"
)

const nullPath = "<>"

// published takes a policy down; false: nobody has asked for reports whom we could send any.
func published(v auth.Verdict, method auth.Discovery) (Published, bool) {
	r := v.Record
	if r == nil || r.Defective || r.P == "" {
		return Published{}, false
	}
	domain, ok := auth.CanonicalDomain(v.PolicyDomain)
	if !ok {
		return Published{}, false
	}
	p := Published{
		Domain: domain, Method: string(cmp.Or(method, auth.TreeWalk)),
		P: string(r.P), SP: string(cmp.Or(r.SP, r.P)), NP: string(cmp.Or(r.NP, r.SP, r.P)),
		ADKIM: string(cmp.Or(r.ADKIM, auth.Relaxed)), ASPF: string(cmp.Or(r.ASPF, auth.Relaxed)), Testing: r.Testing,
	}
	if len(r.FO) <= maxFO {
		p.FO = r.FO
	}
	if v.OrgDomain != "" && v.OrgDomain != domain {
		p.Org = v.OrgDomain
	}
	for _, u := range r.RUA {
		if len(p.RUA) < MaxRecipients && u.Mailbox != "" && len(u.Text) <= maxURI && !slices.Contains(p.RUA, u.Text) {
			p.RUA = append(p.RUA, u.Text)
		}
	}
	return p, len(p.RUA) > 0
}

// addresses reads RUA back.
func (p *Published) addresses() []auth.ReportURI {
	record, _ := auth.ParseRecord("v=DMARC1; p=none; rua=" + strings.Join(p.RUA, ","))
	return record.RUA
}

// organization is whom reports are counted against: those of one are not to crowd out those of others.
func (p *Published) organization() string { return cmp.Or(p.Org, p.Domain) }

// registered is the name that somebody had to register for the policy domain to be: what no record can change.
func (p *Published) registered() string { return (*auth.Suffixes)(nil).OrgDomain(p.Domain) }

// valid reports whether p can stand in a report, whoever wrote it down.
func (p *Published) valid() bool {
	return isCanonical(p.Domain) && isOneOf(p.Method, string(auth.TreeWalk), string(auth.PSL)) &&
		isPolicy(p.P) && isPolicy(p.SP) && isPolicy(p.NP) && isOneOf(p.ADKIM, "r", "s") && isOneOf(p.ASPF, "r", "s") &&
		len(p.FO) <= maxFO && clean(p.FO, maxFO) == p.FO
}

// valid reports whether r can stand in a report, whoever wrote it down.
func (r *Row) valid() bool {
	_, err := netip.ParseAddr(r.IP)
	ok := err == nil && isCanonical(r.HeaderFrom) && len(r.Signatures) <= maxSignatures && len(r.Reasons) <= maxReasons &&
		isOneOf(r.Disposition, dispositionNone, dispositionPass, dispositionQuarantine, dispositionReject) &&
		(r.MailFrom == "" || r.MailFrom == nullPath || isCanonical(r.MailFrom)) &&
		(r.SPFDomain == "" || isCanonical(r.SPFDomain) && isSPFResult(r.SPFResult))
	for _, s := range r.Signatures {
		ok = ok && isCanonical(s.Domain) && isCanonical(s.Selector) && isDKIMResult(s.Result)
	}
	for _, why := range r.Reasons {
		ok = ok && isOneOf(why.Type, reasonLocalPolicy, reasonMailingList, reasonOther, reasonTestMode,
			reasonTrustedForwarder)
	}
	return ok
}

func isCanonical(name string) bool {
	canonical, ok := auth.CanonicalDomain(name)
	return ok && canonical == name
}

func isPolicy(p string) bool {
	return isOneOf(p, string(auth.PolicyNone), string(auth.PolicyQuarantine), string(auth.PolicyReject))
}

// isDKIMResult: https://www.rfc-editor.org/rfc/rfc8601#section-2.7.1
func isDKIMResult(s string) bool {
	return isOneOf(s, auth.ResultNone, auth.ResultPass, auth.ResultFail, auth.ResultPolicy, auth.ResultNeutral,
		auth.ResultTemperror, auth.ResultPermerror)
}

// isSPFResult: https://www.rfc-editor.org/rfc/rfc8601#section-2.7.2
func isSPFResult(s string) bool { return s == auth.ResultSoftfail || isDKIMResult(s) }

func isOneOf(s string, words ...string) bool { return slices.Contains(words, s) }

// clean makes text fit for people and for XML 1.0: printable characters of ASCII, at most so many.
func clean(s string, most int) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, s)
	return s[:min(len(s), most)]
}
