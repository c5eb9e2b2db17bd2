package aggregate

import (
	"strconv"
	"strings"

	"slipstream/auth"
	"slipstream/auth/arc"
)

// FromReport returns what is to be written down about a message: a record for each author domain whose owner asks for
// aggregate reports at an address that mail can be sent to; mostly one, or none. discovery is the way in which policies
// were found.
//
// Nothing in it tells who wrote to whom: there are domains, results, and the client's address.
// https://www.rfc-editor.org/rfc/rfc9990#section-7.2
func FromReport(r *auth.Report, discovery auth.Discovery) []Record {
	client := r.Envelope.Client
	if !client.IsValid() {
		return nil // a report is about addresses
	}
	verdicts := r.DMARC.Each
	if len(verdicts) == 0 {
		verdicts = []auth.Verdict{r.DMARC}
	}
	var records []Record
	for _, v := range verdicts {
		p, ok := published(v, discovery)
		from, known := auth.CanonicalDomain(v.Domain)
		if !ok || !known {
			continue
		}
		row := Row{
			IP: client.Unmap().WithZone("").String(), HeaderFrom: from, MailFrom: returnDomain(r.Envelope.MailFrom),
			DKIM: v.DKIMAligned, SPF: v.SPFAligned,
			Disposition: disposition(v, r.Decision), Reasons: reasons(v, r), Signatures: signatures(v, r.DKIM),
		}
		// The scope of the null path is MAIL FROM too: https://www.rfc-editor.org/rfc/rfc7208#section-2.4
		if domain, ok := auth.CanonicalDomain(r.SPF.Domain); ok && isSPFResult(r.SPF.Value) {
			row.SPFDomain, row.SPFResult = domain, r.SPF.Value
			if r.SPF.Value != auth.ResultPass {
				row.SPFHuman = clean(r.SPF.Reason, maxHuman)
			}
		}
		records = append(records, Record{Published: p, Row: row})
	}
	return records
}

// returnDomain is what a report says of MAIL FROM.
func returnDomain(mailFrom string) string {
	if mailFrom == "" {
		return nullPath
	}
	domain, _ := auth.CanonicalDomain(mailFrom[strings.LastIndexByte(mailFrom, '@')+1:])
	return domain
}

// disposition is what was done with a message, as its domain sees it: "pass" is for one that a harsh policy would have
// hit.
func disposition(v auth.Verdict, d auth.Decision) string {
	switch {
	case d.Action == auth.ActionReject:
		return dispositionReject
	case d.Action == auth.ActionQuarantine:
		return dispositionQuarantine
	case v.Result == auth.ResultPass && (v.Policy == auth.PolicyReject || v.Policy == auth.PolicyQuarantine):
		return dispositionPass
	}
	return dispositionNone
}

// reasons says why less, or more, was done than the policy asks for.
// https://www.rfc-editor.org/rfc/rfc9990#section-3.1.1.9
func reasons(v auth.Verdict, r *auth.Report) []Reason {
	var list []Reason
	add := func(kind, comment string) { list = append(list, Reason{kind, clean(comment, maxComment)}) }
	failed := v.Result != auth.ResultPass
	if failed && lowered(v) {
		add(reasonTestMode, "")
	}
	asked := v.Policy == auth.PolicyQuarantine || v.Policy == auth.PolicyReject
	done := disposition(v, r.Decision)
	switch {
	case v.Result == auth.ResultTemperror:
		add(reasonOther, "temporary error: "+v.Reason)
	case v.Sealer != "":
		add(reasonLocalPolicy, sealedBy(v.Sealer, r.ARC))
	case failed && asked && r.Decision.Exempt != "":
		add(reasonTrustedForwarder, r.Decision.Exempt)
	case failed && asked && done == dispositionNone:
		add(reasonLocalPolicy, "policies are not enforced")
	case failed && v.Policy == auth.PolicyReject && done == dispositionQuarantine:
		add(reasonLocalPolicy, "quarantine is the most that is done")
	case done != dispositionNone && done != dispositionPass && (!failed || done != string(v.Policy)):
		// Another author domain, or a broken From field: what was done was not for this domain.
		add(reasonOther, "the message has another fault: "+r.DMARC.Reason)
	}
	return list
}

// lowered reports whether test mode had a share in the policy.
// https://www.rfc-editor.org/rfc/rfc9989#section-4.7
func lowered(v auth.Verdict) bool {
	r := v.Record
	if !r.Testing || v.Policy == "" || v.Policy == auth.PolicyReject {
		return false
	}
	if v.Policy == auth.PolicyQuarantine {
		return true // it was reject: test mode leaves none that was quarantine
	}
	harsh := r.P == auth.PolicyQuarantine
	if v.Domain != v.PolicyDomain {
		harsh = r.SP == auth.PolicyQuarantine || r.NP == auth.PolicyQuarantine || r.SP == "" && harsh
	}
	return harsh
}

// sealedBy is the comment that https://www.rfc-editor.org/rfc/rfc8617#section-7.2.2 has for a message that a chain of
// ARC has let through.
func sealedBy(sealer string, chain arc.Result) string {
	comment := "arc=" + chain.Value
	for i := len(chain.Sets) - 1; i >= 0; i-- {
		if set := chain.Sets[i]; set.Domain == sealer {
			n := strconv.Itoa(set.Instance)
			return comment + " as[" + n + "].d=" + set.Domain + " as[" + n + "].s=" + set.Selector
		}
	}
	return comment + " d=" + sealer
}

// signatures are the results of DKIM in the order of https://www.rfc-editor.org/rfc/rfc9990#section-3.1.3: that of the
// author domain, aligned, passed, others.
func signatures(v auth.Verdict, results []auth.DKIMResult) []Signature {
	var ranks [4][]Signature
	for _, d := range results {
		domain, ok1 := auth.CanonicalDomain(d.Domain)
		selector, ok2 := auth.CanonicalDomain(d.Selector)
		if !ok1 || !ok2 || !isDKIMResult(d.Value) {
			continue
		}
		s := Signature{Domain: domain, Selector: selector, Result: d.Value}
		rank := 3
		switch passed := d.Value == auth.ResultPass; {
		case passed && domain == v.Domain:
			rank = 0
		case passed && domain == v.DKIMDomain:
			rank = 1
		case passed:
			rank = 2
		default:
			s.Human = clean(d.Reason, maxHuman)
		}
		ranks[rank] = append(ranks[rank], s)
	}
	var list []Signature
	for _, rank := range ranks {
		list = append(list, rank...)
	}
	return list[:min(len(list), maxSignatures)]
}
