package auth

// An alignment says whether an authenticated domain stands for the author.
type alignment int

const (
	notAligned alignment = iota
	aligned
	maybeAligned // the DNS did not tell
)

// align compares an authenticated domain with the author's. https://www.rfc-editor.org/rfc/rfc9989#section-4.10.2
func (e *Evaluation) align(author, domain string, mode AlignmentMode) alignment {
	domain, ok := CanonicalDomain(domain)
	switch {
	case !ok:
		return notAligned
	case domain == author:
		return aligned
	case mode == Strict:
		return notAligned
	}
	org, err := e.orgDomain(author, forAuthor)
	if err != nil {
		return maybeAligned
	}
	// An organizational domain is the name itself or above it. What is not below the author's cannot have the same,
	// and is not asked about: else whoever signs with a domain of their own whose DNS does not answer could turn every
	// failure into a temporary error.
	if !within(domain, org) {
		return notAligned
	}
	theirs, err := e.orgDomain(domain, forAlignment)
	switch {
	case err == errTooManyQueries:
		return notAligned
	case err != nil:
		return maybeAligned
	case theirs == org:
		return aligned
	}
	return notAligned
}

// undecided reports whether the message might pass if only the DNS had told all that SPF and DKIM need: for a domain
// that is aligned, or may be. Of other domains it does not matter, or a stranger could turn every failure into a
// temporary error.
func (e *Evaluation) undecided(v *Verdict, ids Identifiers) bool {
	if e.author.Fault != "" {
		return false
	}
	if ids.SPFUnknown != "" && e.align(v.Domain, ids.SPFUnknown, v.Record.ASPF) != notAligned {
		return true
	}
	dkim, _ := e.alignAny(v.Domain, ids.DKIMUnknown, v.Record.ADKIM)
	return dkim != notAligned
}

// alignAny returns the best that any of the domains comes to, and which one.
func (e *Evaluation) alignAny(author string, domains []string, mode AlignmentMode) (best alignment, by string) {
	for _, domain := range domains {
		switch e.align(author, domain, mode) {
		case aligned:
			return aligned, domain
		case maybeAligned:
			best = maybeAligned
		}
	}
	return best, ""
}
