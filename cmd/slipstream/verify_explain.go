package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"slipstream/auth"
	"slipstream/auth/arc"
)

// maxShown is how much of one text of others is shown: the longest record that means anything fits.
const maxShown = 4 << 10

// An explainer writes down what a report follows from. Whatever others have said is cleaned line by line: see row.
type explainer struct {
	out       *strings.Builder
	report    *auth.Report
	trace     *dnsTrace
	discovery auth.Discovery
	headers   []arc.Header
	fields    *arc.Fields
	bodies    [2]*arc.BodyHash // by form
}

// explain writes all steps.
func explain(out *strings.Builder, m message, r *auth.Report, trace *dnsTrace, discovery auth.Discovery) {
	x := &explainer{out: out, report: r, trace: trace, discovery: discovery}
	x.headers, _ = arc.SplitHeader(m.section) // the report says what is wrong with it
	x.fields = arc.NewFields(x.headers)
	for _, canon := range []arc.Canon{arc.Simple, arc.Relaxed} {
		x.bodies[canon] = arc.NewBodyHash(canon)
		_, _ = x.bodies[canon].Write(m.body) // it has not ended
	}
	x.message(m)
	x.questions()
	x.client()
	x.dkim()
	x.chain()
	x.dmarc()
	x.decisions()
}

// section begins what has a heading of its own.
func (x *explainer) section(title string) { fmt.Fprintf(x.out, "\n%s\n", title) }

// row writes one line. Nothing that is in it can end it, or have a terminal do anything.
func (x *explainer) row(name, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxShown {
		text = fmt.Sprintf("%s… (%d octets)", text[:maxShown], len(text))
	}
	fmt.Fprintf(x.out, "  %s %s\n", pad(printable(name)), printable(text))
}

// pad makes the first column.
func pad(s string) string { return fmt.Sprintf("%-16s", s) }

// list writes one line for each text.
func (x *explainer) list(name string, texts []string) {
	for _, text := range texts {
		x.row(name, "%s", text)
	}
}

func (x *explainer) message(m message) {
	x.section("Message")
	x.row("header", "%s, %s", count(len(x.headers), "field"), count(len(m.section), "octet"))
	x.row("body", "%s", count(len(m.body), "octet"))
	if m.mended {
		x.row("line ends", "LF, read as CRLF")
	}
	if x.report.Late {
		x.row("DNS", "the deadline cut something short")
	}
}

// questions writes every question and what was answered.
func (x *explainer) questions() {
	x.section("DNS")
	heard := x.trace.all()
	if len(heard) == 0 {
		x.row("nothing", "was asked")
	}
	for _, h := range heard {
		about := fmt.Sprintf("%-5s%s", h.qtype, h.name)
		if h.at != "" {
			about += ", an alias of " + h.at
		}
		took := h.took.Round(time.Millisecond / 10)
		if len(h.records) == 0 {
			fmt.Fprintf(x.out, "  %s: %s (%v)\n", printable(about), printable(h.outcome()), took)
			continue
		}
		fmt.Fprintf(x.out, "  %s (%v)\n", printable(about), took)
		x.list("", h.records)
	}
}

// client writes what follows from the envelope.
func (x *explainer) client() {
	r := x.report
	if !r.Envelope.Client.IsValid() {
		x.section("SPF and iprev")
		x.row("left out", "without the client's address")
		return
	}
	x.section("iprev")
	x.row("client", "%s", r.IPRev.IP)
	x.row("result", "%s%s", r.IPRev.Value, because(r.IPRev.Reason))
	if r.IPRev.Name != "" {
		x.row("name", "%s", r.IPRev.Name)
	}
	for _, s := range []auth.SPFResult{r.SPF, r.HELO} {
		if s.Value == "" {
			continue
		}
		x.section("SPF of " + map[string]string{auth.ScopeMailFrom: "MAIL FROM", auth.ScopeHELO: "HELO"}[s.Scope])
		x.row("domain", "%s", cmp.Or(s.Domain, "none"))
		if records, err, asked := x.trace.texts(s.Domain); asked && err == nil {
			x.list("record", only(records, "v=spf1"))
		}
		x.row("result", "%s%s", s.Value, because(s.Reason))
	}
}

// only are the records of a kind.
func only(records []string, version string) []string {
	return slices.DeleteFunc(slices.Clone(records), func(s string) bool {
		return len(s) < len(version) || !strings.EqualFold(s[:len(version)], version)
	})
}

// because is a reason, if there is one.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// dmarc writes how the verdict was reached.
func (x *explainer) dmarc() {
	author := x.report.Author
	x.section("From")
	x.row("domains", "%s", or(author.Domains))
	if len(author.Named) > 0 {
		x.row("as names alone", "%s", or(author.Named))
	}
	if author.Fault != "" {
		x.row("fault", "%s", author.Fault)
	}
	verdicts := x.report.DMARC.Each
	if len(verdicts) == 0 {
		verdicts = []auth.Verdict{x.report.DMARC}
	}
	for _, v := range verdicts {
		x.section("DMARC of " + cmp.Or(printable(v.Domain), "nobody"))
		x.walks(v)
		if v.Record != nil {
			x.row("record", "of %s", v.PolicyDomain)
			x.row("policy", "%s, after np, sp, p and t", cmp.Or(string(v.Policy), "not known"))
		}
		if v.OrgDomain != "" {
			x.row("organization", "%s", v.OrgDomain)
		}
		x.alignment(v)
		x.row("result", "%s (%s)%s", cmp.Or(v.Result, "none"), v.Status, because(v.Reason))
	}
}

// walks writes the walk from the author's domain, and from those that might be aligned with it.
func (x *explainer) walks(v auth.Verdict) {
	ids := x.report.Identifiers
	domains := slices.Concat([]string{v.Domain, ids.SPF, ids.SPFUnknown}, ids.DKIM, ids.DKIMUnknown)
	for i, domain := range domains {
		if domain == "" || slices.Contains(domains[:i], domain) {
			continue
		}
		steps := x.steps(domain)
		if len(steps) == 0 {
			continue
		}
		x.row("walk", "from %s", domain)
		ended := false
		for _, s := range steps {
			note := ""
			if ended {
				note = " (beyond the end of the walk)"
			}
			record, text := recordAt(s)
			x.row("  at", "%s: %s%s", s.name, text, note)
			ended = ended || record != nil && record.PSD != auth.PSDUnknown && !x.byList()
		}
	}
}

// byList reports whether the list of public suffixes says where organizations begin.
func (x *explainer) byList() bool { return x.discovery == auth.PSL }

// steps are the answers to what was asked on the way up from a domain, longest name first.
func (x *explainer) steps(domain string) []heardAnswer {
	var steps []heardAnswer
	for _, h := range x.trace.all() {
		at, ok := strings.CutPrefix(h.name, "_dmarc.")
		if ok && h.qtype == "TXT" && (at == domain || strings.HasSuffix(domain, "."+at)) {
			steps = append(steps, h)
		}
	}
	slices.SortFunc(steps, func(a, b heardAnswer) int { return len(b.name) - len(a.name) })
	return steps
}

// recordAt says what a step of a walk has found.
func recordAt(h heardAnswer) (*auth.DMARCRecord, string) {
	var found []auth.DMARCRecord
	for _, text := range h.records {
		if record, ok := auth.ParseRecord(text); ok {
			found = append(found, record)
		}
	}
	switch {
	case len(found) == 1:
		return &found[0], found[0].Text
	case len(found) > 1:
		return nil, "several records, which is as good as none"
	case len(h.records) > 0:
		return nil, "no DMARC record among " + count(len(h.records), "record")
	}
	return nil, h.outcome()
}

// alignment writes what was authenticated, and whether it stands for the author.
func (x *explainer) alignment(v auth.Verdict) {
	if v.Record == nil {
		return
	}
	ids := x.report.Identifiers
	mode := map[auth.AlignmentMode]string{auth.Strict: "strict", auth.Relaxed: "relaxed"}
	spf := "nothing passed"
	if ids.SPF != "" {
		spf = ids.SPF + map[bool]string{true: ": aligned", false: ": not aligned"}[v.SPFAligned]
	}
	if ids.SPFUnknown != "" {
		spf = ids.SPFUnknown + ": " + auth.ResultTemperror
	}
	x.row("SPF", "%s (%s)", spf, mode[v.Record.ASPF])
	dkim := "nothing passed"
	switch {
	case v.DKIMAligned:
		dkim = v.DKIMDomain + ": aligned"
	case len(ids.DKIM) > 0:
		dkim = strings.Join(ids.DKIM, ", ") + ": not aligned"
	}
	if len(ids.DKIMUnknown) > 0 {
		dkim += ", " + strings.Join(ids.DKIMUnknown, ", ") + ": " + auth.ResultTemperror
	}
	x.row("DKIM", "%s (%s)", dkim, mode[v.Record.ADKIM])
}

// decisions writes what a door would do.
func (x *explainer) decisions() {
	x.section("What a door would do")
	origin := auth.Origin{Client: x.report.Envelope.Client, Identifiers: x.report.Identifiers}
	does := func(setting string, e auth.Enforcement) {
		e.FaultyFrom = true
		d := e.Decide(x.report.DMARC, origin)
		text := string(d.Action)
		if d.Code != 0 {
			text = fmt.Sprintf("%d %s %s", d.Code, d.Enhanced, d.Text)
		}
		fmt.Fprintf(x.out, "  %-24s %s\n", setting, printable(text))
	}
	for _, limit := range []auth.Policy{auth.PolicyNone, auth.PolicyQuarantine, auth.PolicyReject} {
		does(fmt.Sprintf("enforce = %q", limit), auth.Enforcement{Limit: limit})
	}
	if x.report.DMARC.Status == auth.StatusTempError {
		does(fmt.Sprintf("on_temperror = %q", auth.UnknownDefer),
			auth.Enforcement{Limit: auth.PolicyReject, Unknown: auth.UnknownDefer})
	}
}
