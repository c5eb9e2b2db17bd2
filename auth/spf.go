package auth

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	"blitiri.com.ar/go/spf"
)

// SPFResult says whether a client may use a domain, https://www.rfc-editor.org/rfc/rfc7208#section-2.6
type SPFResult struct {
	// Value is one of none, neutral, pass, fail, softfail, temperror and permerror.
	Value string
	// Domain is the one that was judged: lower case, A-labels. Empty where what the client said is no domain; Value is
	// then none.
	Domain string
	// Scope is "mailfrom" or "helo": the identity that Domain was taken from. It names the property of RFC 8601.
	Scope string
	// Reason tells people what decided, in words of ours: nothing in it comes from the message or the DNS.
	Reason string
}

// The identities of https://www.rfc-editor.org/rfc/rfc7208#section-2
const (
	ScopeMailFrom = "mailfrom"
	ScopeHELO     = "helo"
)

// SPF checks the MAIL FROM identity: may a client at ip that greeted with helo send for the domain of from, a mailbox
// without its angle brackets? For the null path, from "", the mailbox is postmaster at helo and the scope "helo"
// (https://www.rfc-editor.org/rfc/rfc7208#section-2.4).
//
// It asks at most for 10 terms of the record and those that it includes, for 10 addresses or names for each of these,
// and gives up at the third answer that is empty (https://www.rfc-editor.org/rfc/rfc7208#section-4.6.4). The end of
// ctx is a temperror.
func SPF(ctx context.Context, r Resolver, ip netip.Addr, helo, from string) SPFResult {
	if from == "" {
		return SPFHELO(ctx, r, ip, helo)
	}
	local, domain := "", from
	if at := strings.LastIndexByte(from, '@'); at >= 0 {
		local, domain = from[:at], from[at+1:]
	}
	return checkSPF(ctx, r, ip, helo, local, domain, ScopeMailFrom)
}

// SPFHELO checks the HELO identity, with the same bounds, https://www.rfc-editor.org/rfc/rfc7208#section-2.3
func SPFHELO(ctx context.Context, r Resolver, ip netip.Addr, helo string) SPFResult {
	return checkSPF(ctx, r, ip, helo, "", helo, ScopeHELO)
}

func checkSPF(ctx context.Context, r Resolver, ip netip.Addr, helo, local, domain, scope string) SPFResult {
	res := SPFResult{Value: string(spf.None), Scope: scope}
	ip = ip.Unmap().WithZone("")
	if !ip.IsValid() {
		res.Reason = "the client has no address"
		return res
	}
	plain, ok := plainDomain(domain)
	if !ok { // https://www.rfc-editor.org/rfc/rfc7208#section-4.3
		res.Reason = "not a domain"
		return res
	}
	res.Domain = plain
	if local == "" { // https://www.rfc-editor.org/rfc/rfc7208#section-4.3
		local = "postmaster"
	}
	if name, ok := CanonicalDomain(helo); ok {
		helo = name
	} else {
		helo = "unknown" // %{h} is then no name to ask for
	}
	// The library takes what follows the first "@" for the domain, whatever is quoted. A local part with an "@" in it
	// cannot be a name that somebody publishes, so it may as well be another.
	sender := strings.ReplaceAll(local, "@", "_") + "@" + plain
	w := &spfResolver{r: r, ip: ip}
	value, err := spf.CheckHostWithSender(net.IP(ip.AsSlice()), helo, sender, spf.WithContext(ctx), spf.WithResolver(w))
	res.Value, res.Reason = string(value), spfReason(value, err)
	if value != spf.TempError && ctx.Err() != nil && w.lost.Load() {
		// A look-up that the end of ctx cut short may have read as "no such record".
		res.Value, res.Reason = string(spf.TempError), dnsNoAnswer
	}
	return res
}

// spfReason puts the library's error into fixed words.
func spfReason(value spf.Result, err error) string {
	for _, known := range []struct {
		err  error
		text string
	}{
		{spf.ErrMatchedAll, "matched all"},
		{spf.ErrMatchedA, "matched a"},
		{spf.ErrMatchedIP, "matched an address"},
		{spf.ErrMatchedMX, "matched mx"},
		{spf.ErrMatchedPTR, "matched ptr"},
		{spf.ErrMatchedExists, "matched exists"},
		{spf.ErrLookupLimitReached, "more than 10 terms need the DNS"},
		{spf.ErrVoidLookupLimitReached, "more than 2 empty answers"},
		{spf.ErrTooManyMXRecords, "more than 10 mail exchangers"},
		{spf.ErrMultipleRecords, "more than one record"},
		{errSPFSyntax, "syntax error in a record"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	switch value {
	case spf.None:
		return "no record"
	case spf.Neutral:
		return "nothing matched"
	case spf.TempError:
		return dnsNoAnswer
	case spf.PermError:
		return "a record that cannot be used"
	}
	return ""
}
