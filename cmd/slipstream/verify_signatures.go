package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"slipstream/auth/arc"
)

// dkim writes each signature.
func (x *explainer) dkim() {
	results := x.report.DKIM
	if len(results) == 0 {
		x.section("DKIM")
		x.row("result", "none: the message is not signed")
		return
	}
	var signatures []arc.Header
	for _, h := range x.headers {
		if strings.EqualFold(h.Name, "DKIM-Signature") {
			signatures = append(signatures, h)
		}
	}
	for i, r := range results {
		x.section(fmt.Sprintf("DKIM %d of %d", i+1, len(results)))
		if r.Domain != "" {
			x.row("signer", "%s, for %s, selector %s", r.Domain, r.Identity, cmp.Or(r.Selector, "none"))
		}
		// The last may speak for all that were not looked at.
		if i < len(signatures) && (i < len(results)-1 || len(signatures) == len(results)) {
			x.signature(signatures[i])
		}
		x.row("result", "%s%s", r.Value, because(r.Reason))
	}
}

// signature writes the hashes of a signature beside those of the message.
func (x *explainer) signature(h arc.Header) {
	s, err := arc.ParseSignature(h)
	if err != nil {
		x.row("field", "%v", err)
		return
	}
	x.row("algorithm", "%s, %s/%s", s.Algorithm, s.Header, s.Body)
	x.row("signed fields", "%s", strings.Join(s.Headers, ":"))
	x.moment("signed", s.Signed)
	x.moment("expires", s.Expires)
	sum := x.bodies[s.Body].Sum()
	switch {
	case s.Length >= 0:
		x.row("body hash", "of the first %s of %d alone (l=)", count(int(s.Length), "octet"), x.bodies[s.Body].Size())
	case bytes.Equal(sum[:], s.BodyHash):
		x.row("body hash", "%s, as signed", base64.StdEncoding.EncodeToString(sum[:]))
	default:
		x.row("body hash", "%s", base64.StdEncoding.EncodeToString(sum[:]))
		x.row("  signed is", "%s: the body is not what was signed", base64.StdEncoding.EncodeToString(s.BodyHash))
	}
	x.row("header hash", "%s", base64.StdEncoding.EncodeToString(s.Digest(x.fields)))
	x.key(s)
}

// moment writes a time, if there is one.
func (x *explainer) moment(name string, t time.Time) {
	if !t.IsZero() {
		x.row(name, "%s (%d)", t.UTC().Format(time.RFC3339), t.Unix())
	}
}

// key writes the key of a signature, and whether it has signed the header hash.
func (x *explainer) key(s *arc.Signature) {
	selector, domain, err := arc.KeyName(s.Selector, s.Domain)
	if err != nil {
		x.row("key", "%v", err)
		return
	}
	records, err, asked := x.trace.texts(selector + "._domainkey." + domain)
	switch {
	case !asked:
		x.row("key", "not asked for")
		return
	case err != nil:
		x.row("key", "%s", heardAnswer{err: err}.outcome())
		return
	}
	x.list("key record", records)
	k, err := arc.ChooseKey(records, s.Algorithm)
	if err != nil {
		x.row("key", "%v", err)
		return
	}
	x.row("key", "%s, %d bits%s", k.Algorithm(), k.Bits(), map[bool]string{true: ", for tests (t=y)"}[k.Testing])
	switch err := s.Verify(x.fields, k); {
	case err == nil:
		x.row("  signed", "the header hash")
	case errors.Is(err, arc.ErrMismatch):
		x.row("  signed", "another hash: the header was changed, or the key was another")
	default:
		x.row("  signed", "%v", err)
	}
}

// chain writes the sets of ARC, oldest first.
func (x *explainer) chain() {
	r := x.report.ARC
	x.section("ARC")
	x.row("result", "%s%s", cmp.Or(r.Value, arc.None), because(r.Reason))
	if r.Instance > 0 {
		x.row("sets", "%d", r.Instance)
	}
	if r.Value == arc.Pass {
		x.row("oldest-pass", "%d", r.OldestPass)
	}
	for _, set := range r.Sets {
		x.section(fmt.Sprintf("ARC set %d", set.Instance))
		x.row("seal", "of %s, selector %s, cv=%s", set.Domain, set.Selector, set.CV)
		x.row("says", "%s", strings.Join(strings.Fields(string(set.Results)), " "))
		for _, h := range x.headers {
			if strings.EqualFold(h.Name, "ARC-Message-Signature") && instanceOf(h) == fmt.Sprint(set.Instance) {
				x.signature(h)
			}
		}
		x.row("message", "%s", cmp.Or(set.Message, "not looked at"))
	}
}

// instanceOf is i= of a set's signature.
func instanceOf(h arc.Header) string {
	tags, err := arc.ParseTags(h.Value())
	if err != nil {
		return ""
	}
	instance, _ := tags.Get("i")
	return strings.TrimLeft(instance, "0")
}
