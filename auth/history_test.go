package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// passed is a record of a message with everything in order.
func passed() HistoryRecord {
	return HistoryRecord{
		Job: "1vMxyz-000000001ab-0000", Reporter: "mx.example.org", Received: time.Unix(1795000000, 0),
		IP: netip.MustParseAddr("192.0.2.7"), MailFrom: "bounce.sender.example", Helo: "mail.sender.example",
		SPF: ResultPass, DKIM: []HistoryDKIM{{"sender.example", "k1", ResultPass}},
		Verdict: Verdict{Status: StatusAccept, Result: ResultPass, Domain: "sender.example",
			PolicyDomain: "sender.example", Policy: PolicyReject, SPFAligned: true, DKIMAligned: true,
			Record: &DMARCRecord{P: PolicyReject, ADKIM: Relaxed, ASPF: Relaxed,
				RUA: []ReportURI{{Text: "mailto:reports@sender.example"}}}},
	}
}

// failed is a record of one where everything went wrong that can, and whose values are odd.
func failed() HistoryRecord {
	return HistoryRecord{
		Job: "a.b_c-2", Reporter: "MX.Example.ORG.", Received: time.Unix(1795000001, 5),
		IP: netip.MustParseAddr("2001:db8::25%eth0"), Helo: "bücher.example", SPF: ResultSoftfail,
		DKIM: []HistoryDKIM{{"Sender.Example", "k1", ResultTemperror}, {"other.example", "2026._x", ResultFail},
			{"no-selector.example", "", ResultPass}, {"two words", "k1", ResultPass}},
		ARC: ResultPass, Action: ActionQuarantine,
		Seals: []HistorySeal{
			{2, "list.example", "s2", netip.MustParseAddr("2001:db8::1")}, {1, "first.example", "s1", netip.Addr{}},
			{1, "again.example", "s1", netip.Addr{}}, {51, "far.example", "s1", netip.Addr{}},
			{3, "list.example", `s"3`, netip.Addr{}}},
		Verdict: Verdict{Status: StatusQuarantine, Result: ResultFail, Domain: "news.sender.example",
			PolicyDomain: "sender.example", Policy: PolicyQuarantine,
			Record: &DMARCRecord{P: PolicyNone, SP: PolicyQuarantine, ADKIM: Strict, ASPF: Strict, RUA: []ReportURI{
				{Text: "mailto:a@b.example"}, {Text: "mailto:a@b.example\nmfrom evil.example"}, {Text: "mailto:a b"},
				{Text: "mailto:x,y"}, {Text: "mailto:" + strings.Repeat("x", 250)}, {Text: "-"},
				{Text: "https://r.example/?x=1"}}}},
	}
}

const historyPassed = `job 1vMxyz-000000001ab-0000
reporter mx.example.org
received 1795000000
ipaddr 192.0.2.7
from sender.example
mfrom bounce.sender.example
spf 0
dkim sender.example k1 0
pdomain sender.example
policy 15
rua mailto:reports@sender.example
pct 100
adkim 114
aspf 114
p 114
sp 0
align_dkim 4
align_spf 4
action 2
arc 11
arc_policy 1 json:[]
`

const historyFailed = `job a.b_c-2
reporter mx.example.org
received 1795000001
ipaddr 2001:db8::25
from news.sender.example
mfrom xn--bcher-kva.example
spf 2
dkim sender.example k1 4
dkim other.example 2026._x 7
pdomain sender.example
policy 17
rua mailto:a@b.example
rua https://r.example/?x=1
pct 100
adkim 115
aspf 115
p 110
sp 113
align_dkim 5
align_spf 5
action 4
arc 0
arc_policy 2 json:[{"i":2,"d":"list.example","s":"s2","ip":"2001:db8::1"},{"i":1,"d":"first.example","s":"s1","ip":""}]
`

func TestHistoryRecord(t *testing.T) {
	for _, tt := range []struct {
		record HistoryRecord
		want   string
	}{{passed(), historyPassed}, {failed(), historyFailed}} {
		got, err := tt.record.Append([]byte("before"))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff("before"+tt.want, string(got)); diff != "" {
			t.Error(diff)
		}
	}
	for _, tt := range []struct {
		name string
		line string
		edit func(*HistoryRecord)
	}{
		{"the null path", "mfrom mail.sender.example", func(r *HistoryRecord) { r.MailFrom = "" }},
		{"neither path nor name", "mfrom sender.example",
			func(r *HistoryRecord) { r.MailFrom, r.Helo = "", "[192.0.2.7]" }},
		{"a path of nothing", "mfrom sender.example", func(r *HistoryRecord) { r.MailFrom, r.Helo = "-", "-" }},
		{"a line in the path", "mfrom sender.example",
			func(r *HistoryRecord) { r.MailFrom, r.Helo = "a\naction 0", "a action" }},
		{"SPF was not checked", "spf 6", func(r *HistoryRecord) { r.SPF = "" }},
		{"SPF said something else", "spf 11", func(r *HistoryRecord) { r.SPF = "0\njob x" }},
		{"no address for reports", "rua -", func(r *HistoryRecord) { r.Verdict.Record.RUA = nil }},
		{"a defective record", "p 0", func(r *HistoryRecord) { r.Verdict.Record.P = "" }},
		{"a policy of none", "policy 18",
			func(r *HistoryRecord) { r.Verdict.Result, r.Verdict.Policy = "fail", "none" }},
		{"a policy of reject", "policy 16", func(r *HistoryRecord) { r.Verdict.Result = ResultFail }},
		{"rejected", "action 0", func(r *HistoryRecord) { r.Action = ActionReject }},
		{"a broken chain", "arc 7", func(r *HistoryRecord) { r.ARC = ResultFail }},
		{"a trusted sealer", "arc_policy 0 json:[]", func(r *HistoryRecord) { r.Verdict.Sealer = "list.example" }},
		{"IPv4 in IPv6", "ipaddr 192.0.2.1", func(r *HistoryRecord) { r.IP = netip.MustParseAddr("::ffff:192.0.2.1") }},
	} {
		r := passed()
		tt.edit(&r)
		got, err := r.Append(nil)
		if err != nil || !strings.Contains("\n"+string(got), "\n"+tt.line+"\n") {
			t.Errorf("%s: no line %q: %v\n%s", tt.name, tt.line, err, got)
		}
		if _, err := readHistory(string(got)); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	many := passed()
	many.DKIM = make([]HistoryDKIM, 0, 500)
	for i := range 500 {
		many.DKIM = append(many.DKIM, HistoryDKIM{"sender.example", fmt.Sprint("k", i), ResultPass})
	}
	if got, err := many.Append(nil); err != nil || strings.Count(string(got), "\ndkim ") != maxHistoryDKIM {
		t.Errorf("500 signatures: %v, %s", err, got)
	}
}

func TestHistoryRecordRefuses(t *testing.T) {
	for _, tt := range []struct {
		want string
		edit func(*HistoryRecord)
	}{
		{"no policy", func(r *HistoryRecord) { r.Verdict.Record = nil }},
		{"cannot name a message", func(r *HistoryRecord) { r.Job = "" }},
		{"cannot name a message", func(r *HistoryRecord) { r.Job = "-" }},
		{"cannot name a message", func(r *HistoryRecord) { r.Job = "a b" }},
		{"cannot name a message", func(r *HistoryRecord) { r.Job = "a\njob b" }},
		{"cannot name a message", func(r *HistoryRecord) { r.Job = strings.Repeat("a", 129) }},
		{"the reporter", func(r *HistoryRecord) { r.Reporter = "a b" }},
		{"the author domain", func(r *HistoryRecord) { r.Verdict.Domain = "a\nb" }},
		{"the author domain", func(r *HistoryRecord) { r.Verdict.Domain = "-" }},
		{"the policy domain", func(r *HistoryRecord) { r.Verdict.PolicyDomain = "" }},
		{"no IP address", func(r *HistoryRecord) { r.IP = netip.Addr{} }},
		{"time of receipt", func(r *HistoryRecord) { r.Received = time.Time{} }},
	} {
		r := passed()
		tt.edit(&r)
		got, err := r.Append([]byte("before"))
		if err == nil || !strings.Contains(err.Error(), tt.want) || string(got) != "before" {
			t.Errorf("want %q: %v, %q", tt.want, err, got)
		}
	}
	if _, err := (HistoryRecord{}).Append(nil); !errors.Is(err, ErrNoPolicy) {
		t.Error(err)
	}
}

// An entry is a record as an importer has it.
type entry struct {
	values map[string]string
	dkim   [][3]string
	rua    []string
	seals  []map[string]any
}

// readHistory reads a history file as opendmarc-import does, but takes nothing that it does not understand.
func readHistory(text string) ([]entry, error) {
	numbers := " received spf policy pct adkim aspf p sp align_dkim align_spf action arc arc_policy "
	var entries []entry
	for number, line := range strings.Split(text, "\n") {
		if line == "" {
			continue
		}
		fault := func(what string) ([]entry, error) {
			return nil, fmt.Errorf("line %d: %s: %.200q", number+1, what, line)
		}
		key, rest, _ := strings.Cut(line, " ")
		value, data, _ := strings.Cut(rest, " ")
		if key == "job" {
			entries = append(entries, entry{values: make(map[string]string)})
		}
		if len(entries) == 0 {
			return fault("no job")
		}
		e := &entries[len(entries)-1]
		if value == "" || (data != "") != (key == "dkim" || key == "arc_policy") {
			return fault("words")
		}
		if _, err := strconv.ParseUint(value, 10, 63); err != nil && strings.Contains(numbers, " "+key+" ") {
			return fault("not a number")
		}
		switch key {
		case "dkim":
			selector, result, _ := strings.Cut(data, " ")
			if _, err := strconv.ParseUint(result, 10, 8); err != nil || selector == "" {
				return fault("selector and result")
			}
			e.dkim = append(e.dkim, [3]string{value, selector, result})
			continue
		case "rua":
			e.rua = append(e.rua, value)
			continue
		case "arc_policy":
			text, ok := strings.CutPrefix(data, "json:")
			if !ok || json.Unmarshal([]byte(text), &e.seals) != nil {
				return fault("JSON")
			}
		case "job", "reporter", "received", "ipaddr", "from", "mfrom", "spf", "pdomain", "policy", "pct", "adkim",
			"aspf", "p", "sp", "align_dkim", "align_spf", "action", "arc":
			if value == "-" {
				return fault("nothing")
			}
		default:
			return fault("unknown")
		}
		if _, twice := e.values[key]; twice {
			return fault("twice")
		}
		e.values[key] = value
	}
	for i, e := range entries {
		if len(e.values) != 19 || len(e.rua) == 0 {
			return nil, fmt.Errorf("record %d is not complete: %v", i, e)
		}
	}
	return entries, nil
}

// FuzzHistoryRecord: whatever the values, what is written is one record, and has no line of its own making.
func FuzzHistoryRecord(f *testing.F) {
	f.Add("job", "mx.example.org", "a.example", "b\nc", "-", "k 1", "mailto:a@b\naction 0", "pass", 1)
	f.Add("a\r", "ü.example", "a..b", "", " ", "json:", "x:,", "fail\n", 50)
	f.Fuzz(func(t *testing.T, job, reporter, from, mailFrom, helo, selector, uri, result string, instance int) {
		r := HistoryRecord{Job: job, Reporter: reporter, Received: time.Unix(1795000000, 0),
			IP: netip.AddrFrom4([4]byte{192, 0, 2, 1}), MailFrom: mailFrom, Helo: helo, SPF: result, ARC: result,
			DKIM:   []HistoryDKIM{{from, selector, result}, {helo, mailFrom, result}},
			Seals:  []HistorySeal{{instance, helo, selector, netip.Addr{}}, {1, from, reporter, netip.IPv6Loopback()}},
			Action: Action(uri),
			Verdict: Verdict{Domain: from, PolicyDomain: from, Result: result, Policy: Policy(uri), Sealer: helo,
				Record: &DMARCRecord{P: Policy(uri), SP: Policy(result), ADKIM: AlignmentMode(uri),
					ASPF: AlignmentMode(result), RUA: []ReportURI{{Text: uri}, {Text: mailFrom}}}}}
		text, err := r.Append(nil)
		if err != nil {
			if len(text) != 0 {
				t.Fatalf("%v and %q", err, text)
			}
			return
		}
		entries, err := readHistory(string(text))
		if err != nil || len(entries) != 1 || !asciiOnly(string(text)) || text[len(text)-1] != '\n' {
			t.Fatalf("%v: %q", err, text)
		}
		if got := entries[0].values["job"]; got != job {
			t.Fatalf("job %q, not %q", got, job)
		}
	})
}

// FuzzReadHistory: the reader of these tests does not fall for what it cannot read.
func FuzzReadHistory(f *testing.F) {
	f.Add(historyPassed + historyFailed)
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := readHistory(text)
		for _, e := range entries {
			if err != nil || e.values["mfrom"] == "" || e.values["mfrom"] == "-" {
				t.Fatalf("%v: %v", err, e)
			}
		}
	})
}
