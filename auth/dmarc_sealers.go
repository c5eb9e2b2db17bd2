package auth

import "slices"

// A Seal is one set of an ARC chain that passed: who sealed, and what they say they found, which is the payload of
// their ARC-Authentication-Results behind "i=N;".
type Seal struct {
	Domain  string
	Results []byte
}

// consultSealers lets a trusted sealer speak for a message that fails: one who found that it passed, for the same
// author. From there on everybody who sealed it must be trusted too, since each of them could have changed it.
// https://www.rfc-editor.org/rfc/rfc8617#section-7.2.1
//
// It changes what becomes of the message, and neither the result nor the policy.
func (e *Evaluation) consultSealers(v *Verdict, ids Identifiers) {
	if domain := e.voucher(ids.Seals, v.Domain); domain != "" {
		v.Status, v.Sealer = StatusAccept, domain
		v.Reason = "overridden: passed before " + domain + " sealed it"
		return
	}
	if domain := e.voucher(ids.SealsUnknown, v.Domain); domain != "" {
		v.Status = StatusTempError
		v.Reason = dnsNoAnswer + " for the seal of " + domain
	}
}

// voucher is the trusted sealer in a chain who speaks for an author; "": there is none.
func (e *Evaluation) voucher(chain []Seal, author string) string {
	if e.author.Fault != "" {
		return ""
	}
	for _, seal := range slices.Backward(chain) {
		domain, ok := CanonicalDomain(seal.Domain)
		if !ok || !e.dmarc.trusts(domain) {
			return ""
		}
		if vouches(seal.Results, author) {
			return domain
		}
	}
	return ""
}

// trusts reports whether a canonical domain is among the trusted sealers. Nothing below them is: keys there may be
// others'.
func (d *DMARC) trusts(domain string) bool {
	return slices.ContainsFunc(d.TrustedSealers, func(s string) bool {
		trusted, ok := CanonicalDomain(s)
		return ok && trusted == domain
	})
}

// vouches reports whether results say that mail of the author domain passed.
func vouches(results []byte, author string) bool {
	parsed, err := ParseResults(results)
	if err != nil {
		return false
	}
	for _, r := range parsed.List {
		if r.Method != MethodDMARC || r.Value != ResultPass {
			continue
		}
		from, _ := r.Find(PropHeaderFrom)
		if domain, ok := CanonicalDomain(from); ok && domain == author {
			return true
		}
	}
	return false
}
