package auth

import (
	"context"
	"errors"
)

// A Status says in one word what became of a message.
type Status string

const (
	StatusAccept     Status = "accept"     // an identifier is aligned, or a trusted sealer vouches for one
	StatusReject     Status = "reject"     // failed, and the domain asks for this
	StatusQuarantine Status = "quarantine" // likewise
	StatusNone       Status = "none"       // failed, and the domain asks for nothing
	StatusNoRecord   Status = "norecord"   // nothing to judge by
	StatusNoFrom     Status = "nofrom"     // nobody to judge
	StatusTempError  Status = "temperror"  // the DNS did not tell
	StatusOff        Status = "off"        // not judged
)

// A Verdict is what DMARC makes of a message.
type Verdict struct {
	Status Status
	// Result is the result in the Authentication-Results field: none, pass, fail, temperror or permerror; "" when off.
	// It is of DMARC alone: where a trusted sealer vouches for a message that fails, it is fail, and Status accept.
	Result string
	// Reason says why, where Status and Result do not. It is text of our own in printable ASCII.
	Reason string

	// Fault is that of the From field, if it has one: the message cannot pass then.
	Fault FromFault

	// Domain is the author domain, or with several the one with the worst outcome; "" where there is none.
	Domain string
	// Named says that Domain stands in a display name alone. Then Status is at most quarantine, whatever Policy says:
	// see [Author.Named].
	Named bool
	// PolicyDomain is where Record was found, and OrgDomain the organizational domain of Domain, "" where it is not
	// known.
	PolicyDomain, OrgDomain string
	Record                  *DMARCRecord
	// Policy is what the domain asks to be done with a failure, after np, sp, p and t; "" where that is not known.
	Policy Policy

	// SPFAligned and DKIMAligned tell which method passed for an aligned identifier, and DKIMDomain which d= that was.
	SPFAligned, DKIMAligned bool
	DKIMDomain              string
	// Sealer is the trusted sealer that vouches for a message that fails.
	Sealer string

	// Each has the verdicts for all author domains where there are several.
	Each []Verdict
}

// Off is the Verdict on a message that is not judged, such as one of an authenticated client.
func Off(reason string) Verdict { return Verdict{Status: StatusOff, Reason: reason} }

// Evaluate waits for what Begin asked for and judges. Where the context given to Begin or ctx ends before everything
// that matters is known, the verdict is temperror. When Evaluate returns, nothing of the Evaluation runs any more.
//
// With several author domains each is judged, and the worst outcome counts:
// https://www.rfc-editor.org/rfc/rfc9989#section-11.5
func (e *Evaluation) Evaluate(ctx context.Context, ids Identifiers) Verdict {
	defer context.AfterFunc(ctx, e.lookups.cancel)()
	defer e.Close()
	var worst Verdict
	var each []Verdict
	for i, a := range e.authors {
		v := e.judge(a, ids)
		if i == 0 || v.severity() > worst.severity() {
			worst = v
		}
		each = append(each, v)
	}
	if len(each) > 1 {
		worst.Each = each
	}
	worst.Fault = e.author.Fault
	switch fault := e.author.Fault; {
	case len(each) == 0, fault != "" && worst.Status == StatusNoRecord:
		worst.Status, worst.Result, worst.Reason = StatusNoFrom, ResultPermerror, string(fault)
	case fault != "":
		worst.Reason = string(fault)
	}
	return worst
}

// severity orders verdicts.
func (v Verdict) severity() int {
	switch {
	case v.Status == StatusReject:
		return 9
	case v.Status == StatusQuarantine && !v.Named:
		return 8
	case v.Status == StatusQuarantine:
		return 7
	case v.open():
		return 6
	case v.Status == StatusTempError:
		return 5
	case v.Status == StatusNone:
		return 4
	case v.Result == ResultPermerror:
		return 3
	case v.Status == StatusNoRecord:
		return 2
	case v.Result == ResultFail:
		return 1
	}
	return 0
}

// open reports whether more might be done about the message if only the DNS told.
func (v Verdict) open() bool {
	return v.Status == StatusTempError && v.Policy != PolicyNone && !v.Named
}

// judge is the verdict for one author domain.
func (e *Evaluation) judge(a *authorLookup, ids Identifiers) Verdict {
	v := Verdict{Domain: a.domain, Named: a.named}
	select {
	case <-a.known:
	default:
		select {
		case <-a.known:
		case <-e.lookups.ctx.Done():
			return v.unknown(e.lookups.ctx.Err())
		}
	}
	d := a.discovery
	v.Record, v.PolicyDomain, v.Policy = d.record, d.domain, d.policy
	switch {
	case d.err != nil:
		return v.unknown(d.err)
	case d.record == nil:
		v.Status, v.Result = StatusNoRecord, ResultNone
		return v
	case d.record.Defective:
		v.Status, v.Result, v.Policy = StatusNoRecord, ResultPermerror, ""
		v.Reason = "the record has no valid policy"
		return v
	}
	best := e.alignments(&v, ids)
	switch {
	case best == aligned:
		v.Status, v.Result = StatusAccept, ResultPass
	case best == maybeAligned || e.undecided(&v, ids):
		// https://www.rfc-editor.org/rfc/rfc9989#section-5.3.6
		if d.absentErr != nil {
			v.Policy = ""
		}
		v = v.unknown(nil)
		e.consultSealers(&v, ids)
	case d.absentErr != nil:
		v.Policy = ""
		return v.unknown(d.absentErr)
	default:
		v.fail()
		e.consultSealers(&v, ids)
	}
	return v
}

// fail makes v the verdict on a message that fails.
func (v *Verdict) fail() {
	v.Status, v.Result = Status(v.Policy), ResultFail
	if !v.Named {
		return
	}
	v.Reason = "in a display name alone"
	if v.Status == StatusReject {
		// Some readers show that address, so the domain is not let pass for nothing; but those who write so mean no
		// harm more often than not, and most readers show the other one.
		v.Status = StatusQuarantine
		v.Reason += ": quarantine at most"
	}
}

// alignments fills in which methods are aligned. With a faulty From none can be.
func (e *Evaluation) alignments(v *Verdict, ids Identifiers) alignment {
	if e.author.Fault != "" {
		return notAligned
	}
	var spf alignment
	if ids.SPF != "" {
		spf = e.align(v.Domain, ids.SPF, v.Record.ASPF)
	}
	dkim, by := e.alignAny(v.Domain, ids.DKIM, v.Record.ADKIM)
	v.SPFAligned, v.DKIMAligned, v.DKIMDomain = spf == aligned, dkim == aligned, by
	v.OrgDomain, _ = e.orgDomain(v.Domain, forAuthor)
	switch {
	case spf == aligned || dkim == aligned:
		return aligned
	case spf == maybeAligned || dkim == maybeAligned:
		return maybeAligned
	}
	return notAligned
}

// unknown makes v the verdict where the DNS did not tell what is needed.
func (v Verdict) unknown(err error) Verdict {
	v.Status, v.Result, v.Reason = StatusTempError, ResultTemperror, dnsNoAnswer
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		v.Reason = "no answer in time"
	}
	return v
}

// AuthResult is the verdict as it stands in the Authentication-Results field; false: nothing is said.
// https://www.rfc-editor.org/rfc/rfc9989#section-9.1
func (v Verdict) AuthResult() (Result, bool) {
	if v.Result == "" {
		return Result{}, false
	}
	r := Result{Method: MethodDMARC, Value: v.Result, Reason: v.Reason}
	if v.Policy != "" {
		r.Properties = append(r.Properties, NewProperty(PropPolicyDMARC, string(v.Policy)))
	}
	if v.Domain != "" {
		r.Properties = append(r.Properties, NewProperty(PropHeaderFrom, v.Domain))
	}
	return r, true
}
