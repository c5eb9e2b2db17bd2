package failure

import (
	"bytes"
	"slices"
	"strings"

	"slipstream/auth"
	"slipstream/auth/arc"
)

// A Kind of failure, in the words of the Auth-Failure field: https://www.rfc-editor.org/rfc/rfc6591#section-3.3 and
// https://www.rfc-editor.org/rfc/rfc9991#section-4
type Kind string

const (
	KindDMARC     Kind = "dmarc"     // not all methods have an aligned result
	KindSignature Kind = "signature" // a DKIM signature that does not verify
	KindBodyHash  Kind = "bodyhash"  // likewise, since the body is another
	KindRevoked   Kind = "revoked"   // likewise, since its key was withdrawn
	KindSPF       Kind = "spf"       // a client that may not use the domain of MAIL FROM
)

// due returns the kinds of failure that the owner of the author domain wants to hear of. What failed for want of an
// answer is no failure. A report on DMARC has in it what one on DKIM or SPF would have, and goes instead of them:
// https://www.rfc-editor.org/rfc/rfc9991#section-3
func due(r *auth.Report) []Kind {
	v := r.DMARC
	if v.Result != auth.ResultPass && v.Result != auth.ResultFail || v.Domain == "" || r.Author.Fault != "" {
		return nil
	}
	// "MUST NOT consider "ruf" tags in DMARC Policy Records having a "psd=y" tag"
	if v.Record == nil || v.Record.Defective || v.Record.PSD == auth.PSDYes || len(v.Record.RUF) == 0 {
		return nil
	}
	spf, dkim := unaligned(r)
	var kinds []Kind
	for option := range strings.SplitSeq(v.Record.FO, ":") {
		switch option {
		case "0":
			if v.Result == auth.ResultFail {
				return []Kind{KindDMARC}
			}
		case "1":
			if spf || dkim {
				return []Kind{KindDMARC}
			}
		case "d":
			if s, ok := failedSignature(r); ok {
				kinds = append(kinds, signatureKind(s))
			}
		case "s":
			if failedSPF(r) {
				kinds = append(kinds, KindSPF)
			}
		}
	}
	return kinds
}

// unaligned tells which methods gave no aligned pass.
func unaligned(r *auth.Report) (spf, dkim bool) {
	temporary := func(d auth.DKIMResult) bool { return d.Value == auth.ResultTemperror }
	spf = !r.DMARC.SPFAligned && r.SPF.Value != auth.ResultTemperror
	dkim = !r.DMARC.DKIMAligned && !slices.ContainsFunc(r.DKIM, temporary)
	return spf, dkim
}

func failedSPF(r *auth.Report) bool {
	switch r.SPF.Value {
	case auth.ResultFail, auth.ResultSoftfail, auth.ResultPermerror:
		return r.SPF.Domain != ""
	}
	return false
}

// failedSignature returns the signature to tell about: of those that failed the one nearest to the author domain.
func failedSignature(r *auth.Report) (auth.DKIMResult, bool) {
	best, found := auth.DKIMResult{}, -1
	for _, d := range r.DKIM {
		switch d.Value {
		case auth.ResultPass, auth.ResultTemperror, auth.ResultNone:
			continue
		}
		if n := nearness(d.Domain, r.DMARC); d.Domain != "" && d.Selector != "" && n > found {
			best, found = d, n
		}
	}
	return best, found >= 0
}

func nearness(domain string, v auth.Verdict) int {
	switch {
	case domain == v.Domain:
		return 2
	case domain == v.OrgDomain || v.OrgDomain != "" && strings.HasSuffix(domain, "."+v.OrgDomain):
		return 1
	}
	return 0
}

func signatureKind(d auth.DKIMResult) Kind {
	switch d.Reason {
	case arc.ErrBodyHash.Error():
		return KindBodyHash
	case arc.ErrKeyRevoked.Error():
		return KindRevoked
	}
	return KindSignature
}

// readable returns the fields of a header up to the first line that is none: what follows that, some readers take for
// the body. It is empty where the header is too large to be looked at.
func readable(section []byte) []arc.Header {
	fields, _ := arc.SplitHeader(section) // whatever the error, the fields are those that could be read
	for i, f := range fields {
		if f.Name == "" {
			return fields[:i]
		}
	}
	return fields
}

// loops tells mail that no report may be about, so that reports never are about reports: what has the null path, what
// a machine wrote in reply (https://www.rfc-editor.org/rfc/rfc3834#section-2), what is a report, and what claims to be
// from who sends the reports.
func loops(r *auth.Report, fields []arc.Header, own string) bool {
	if r.Envelope.MailFrom == "" || strings.EqualFold(r.Envelope.MailFrom, own) {
		return true
	}
	for _, f := range fields {
		value := bytes.ToLower(bytes.TrimSpace(f.Value()))
		switch strings.ToLower(f.Name) {
		case "auto-submitted":
			word := bytes.FieldsFunc(value, func(c rune) bool { return strings.ContainsRune(" \t\r\n;(", c) })
			if len(word) == 0 || string(word[0]) != "no" {
				return true
			}
		case "content-type":
			if bytes.HasPrefix(value, []byte("multipart/report")) || bytes.Contains(value, []byte("feedback-report")) {
				return true
			}
		case "from", "sender":
			if bytes.Contains(value, []byte(strings.ToLower(own))) {
				return true
			}
		}
	}
	return false
}
