package aggregate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"slipstream/auth"
)

// sent returns what the XML documents of reports say: messages for each client.
func clients(t testing.TB, reports []*Report) map[string]int {
	t.Helper()
	total := make(map[string]int)
	for _, r := range reports {
		var b bytes.Buffer
		if err := r.WriteXML(&b); err != nil {
			t.Fatal(err)
		}
		var ip string
		for line := range strings.Lines(b.String()) {
			line = strings.TrimSpace(line)
			if rest, ok := strings.CutPrefix(line, "<source_ip>"); ok {
				ip, _, _ = strings.Cut(rest, "<")
			}
			if rest, ok := strings.CutPrefix(line, "<count>"); ok {
				var n int
				if _, err := fmt.Sscanf(rest, "%d<", &n); err != nil {
					t.Fatal(err)
				}
				total[ip] += n
			}
		}
	}
	return total
}

// TestSplitBySize: a report that is too large is split; every message is in one of the parts, and each fits.
func TestSplitBySize(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	var records []Record
	const rows = 3000
	for n := range 2 * rows {
		records = append(records, sample("example.com", n%rows))
	}
	dir := written(t, day, records...)
	c := testConfig()
	whole, _ := made(t, dir, day, c)
	if len(whole) != 1 || whole[0].Messages != 2*rows || whole[0].Rows != rows {
		t.Fatalf("%d reports", len(whole))
	}
	c.MaxMessage = minMaxMessage
	parts, sum := made(t, dir, day, c)
	if len(parts) < 2 || sum.LeftOut != 0 {
		t.Fatalf("%d parts, %+v", len(parts), sum)
	}
	ids := make(map[string]bool)
	for _, p := range parts {
		ids[p.ID] = true
		if size := len(p.Message("rua@example.com", someTime)); size > c.MaxMessage {
			t.Errorf("a message of %d octets, %d are allowed", size, c.MaxMessage)
		}
	}
	got := clients(t, parts)
	if len(ids) != len(parts) || len(got) != rows {
		t.Errorf("%d identifiers for %d parts, %d clients", len(ids), len(parts), len(got))
	}
	for ip, n := range got {
		if n != 2 {
			t.Errorf("%s is counted %d times", ip, n)
		}
	}
}

// TestSplitByRows: of more rows than memory is given for, there are more reports.
func TestSplitByRows(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	var records []Record
	for n := range 2*MaxRows + 5 {
		records = append(records, sample("example.com", n))
	}
	records = append(records, records[0], records[2*MaxRows+4])
	reports, sum := made(t, written(t, day, records...), day, testConfig())
	if len(reports) != 3 || reports[0].Rows != MaxRows || reports[1].Rows != MaxRows || reports[2].Rows != 6 ||
		sum.LeftOut != 0 || sum.Messages != int64(len(records)) {
		t.Fatalf("%d reports, %+v", len(reports), sum)
	}
	if got := clients(t, reports); len(got) != 2*MaxRows+5 || got["198.0.0.0"] != 2 {
		t.Errorf("%d clients, one of them %d times", len(got), got["198.0.0.0"])
	}
}

// TestPolicies: messages under several policies of a domain are told apart, up to a bound, and the last addresses
// count.
func TestPolicies(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	var records []Record
	for n := range 3 * maxPolicies {
		r := sample("example.com", n)
		r.Published.FO = fmt.Sprint(n)
		r.Published.RUA = []string{fmt.Sprintf("mailto:r%d@example.com", n)}
		records = append(records, r)
	}
	reports, sum := made(t, written(t, day, records...), day, testConfig())
	if len(reports) != maxPolicies || sum.LeftOut != 0 {
		t.Fatalf("%d reports, %+v", len(reports), sum)
	}
	var n int64
	for _, r := range reports {
		n += r.Messages
		if r.Addresses[0].Mailbox != fmt.Sprintf("r%d@example.com", 3*maxPolicies-1) {
			t.Errorf("it goes to %v", r.Addresses)
		}
	}
	if n != int64(len(records)) {
		t.Errorf("%d messages", n)
	}
}

// TestManyDomains: nobody gets more policy domains reported on than is their share, and those with more mail come
// first.
func TestManyDomains(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	var records []Record
	for n := range MaxDomainsOfOrganization + 50 {
		r := sample(fmt.Sprintf("d%d.evil.example", n), n)
		r.Published.Org = "evil.example"
		records = append(records, r)
	}
	honest := sample("example.com", 1)
	records = append(records, honest, records[0], honest)
	reports, sum := made(t, written(t, day, records...), day, testConfig())
	if len(reports) != MaxDomainsOfOrganization+1 || sum.LeftOut != 50 || sum.Domains != len(reports) {
		t.Errorf("%d reports, %+v", len(reports), sum)
	}
	for _, domain := range []string{"example.com", "d0.evil.example"} {
		on := func(r *Report) bool { return r.Published.Domain == domain && r.Messages == 2 }
		if !slices.ContainsFunc(reports, on) {
			t.Errorf("none on %s", domain)
		}
	}
}

// TestManyOrganizations: a record that makes every name below one an organization of its own gains nothing, nor does a
// message for which nobody has looked for the organization.
func TestManyOrganizations(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	own := judged(t, "v=DMARC1; p=none; psd=n; rua=mailto:rua@evil.example")
	unknown := judged(t, "v=DMARC1; p=none; rua=mailto:rua@evil.co.uk")
	unknown.Author.Fault = auth.FromRepeated
	var records []Record
	for n := range MaxDomainsOfOrganization + 50 {
		name := fmt.Sprintf("d%d.evil.example", n)
		own.DMARC.Domain, own.DMARC.PolicyDomain, own.DMARC.OrgDomain = name, name, name
		records = append(records, FromReport(own, auth.TreeWalk)...)
		name = fmt.Sprintf("d%d.evil.co.uk", n)
		unknown.DMARC.Domain, unknown.DMARC.PolicyDomain, unknown.DMARC.OrgDomain = name, name, ""
		records = append(records, FromReport(unknown, auth.TreeWalk)...)
	}
	records = append(records, sample("honest.co.uk", 1), sample("honest.example", 1))
	reports, sum := made(t, written(t, day, records...), day, testConfig())
	if len(reports) != 2*MaxDomainsOfOrganization+2 || sum.LeftOut != 100 {
		t.Errorf("%d reports, %+v", len(reports), sum)
	}
	for _, domain := range []string{"honest.co.uk", "honest.example"} {
		if !slices.ContainsFunc(reports, func(r *Report) bool { return r.Published.Domain == domain }) {
			t.Errorf("none on %s", domain)
		}
	}
}

// TestMoreThanMaxDomains: the bound on all domains leaves those out that have the least mail.
func TestMoreThanMaxDomains(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	var records []Record
	for n := range MaxDomains + 10 {
		records = append(records, sample(fmt.Sprintf("d%d.example", n), n))
	}
	records = append(records, records[MaxDomains+9])
	file, err := openDay(written(t, day, records...), day)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var sum Summary
	found, err := survey(t.Context(), file, &sum)
	if err != nil {
		t.Fatal(err)
	}
	chosen := choose(file, found, &sum)
	if len(chosen) != MaxDomains || sum.LeftOut != 10 {
		t.Fatalf("%d domains, %+v", len(chosen), sum)
	}
	if p, ok := chosen[0].read(file); !ok || p.Domain != fmt.Sprintf("d%d.example", MaxDomains+9) {
		t.Errorf("the first is %s", p.Domain)
	}
}

func TestOnlySome(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	dir := written(t, day, sample("a.example", 1), sample("b.example", 1), sample("c.example", 1))
	var got []string
	stop := errors.New("enough")
	only := func(domain string) bool { return domain != "b.example" }
	_, err := Reports(t.Context(), dir, day, testConfig(), only, func(r *Report) error {
		got = append(got, r.Published.Domain)
		if len(got) == 2 {
			return stop
		}
		return nil
	})
	slices.Sort(got)
	if !errors.Is(err, stop) || !slices.Equal(got, []string{"a.example", "c.example"}) {
		t.Errorf("%v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Reports(ctx, dir, day, testConfig(), nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if sum, err := Reports(t.Context(), dir, day+1, testConfig(), nil, nil); err != nil || sum != (Summary{}) {
		t.Errorf("a day without records: %+v, %v", sum, err)
	}
}

// TestNonsense: what others may have written into a file is not sent.
func TestNonsense(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	var records []Record
	change := func(f func(*Record)) {
		r := sample("example.com", len(records))
		f(&r)
		records = append(records, r)
	}
	change(func(r *Record) { r.Published.P = "perhaps" })
	change(func(r *Record) { r.Published.ADKIM = "" })
	change(func(r *Record) { r.Row.IP = "localhost" })
	change(func(r *Record) { r.Row.HeaderFrom = "a b" })
	change(func(r *Record) { r.Row.Disposition = "accept" })
	change(func(r *Record) { r.Row.Signatures[0].Selector = "" })
	change(func(r *Record) { r.Row.Signatures[0].Result = "softfail" })
	change(func(r *Record) { r.Row.SPFResult = "hardfail" })
	change(func(r *Record) { r.Row.Reasons[0].Type = "forwarded" })
	change(func(r *Record) { r.Row.MailFrom = "EXAMPLE.com" })
	bad := int64(len(records))
	change(func(r *Record) { r.Row.Reasons[0].Comment = "\x00\n<b>" })
	reports, sum := made(t, written(t, day, records...), day, testConfig())
	if len(reports) != 1 || reports[0].Rows != 1 || sum.LeftOut != bad {
		t.Errorf("%d reports, %+v", len(reports), sum)
	}
}

// TestMemory: a day of a million messages is read in bounded memory, whether they are alike or not, of one domain or of
// many. SLIPSTREAM_MILLION=1 has a million; else there are fewer.
func TestMemory(t *testing.T) {
	records := cmp.Or(map[string]int{"": 2_000}[os.Getenv("SLIPSTREAM_MILLION")], 1_000_000)
	const most = 64 << 20
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			dir, day := t.TempDir(), mustDay(t, "2026-05-31")
			writeShape(t, dir, day, records, shape.record)
			runtime.GC()
			var peak uint64
			reports, messages := 0, int64(0)
			sum, err := Reports(t.Context(), dir, day, testConfig(), nil, func(r *Report) error {
				reports++
				messages += r.Messages
				if reports < 200 || reports%100 == 0 {
					var stats runtime.MemStats
					runtime.ReadMemStats(&stats)
					peak = max(peak, stats.HeapAlloc)
				}
				return nil
			})
			if err != nil || messages+sum.LeftOut != int64(records) || sum.Messages != int64(records) {
				t.Errorf("%d messages in reports, %+v, %v", messages, sum, err)
			}
			if peak > most {
				t.Errorf("%d MiB of memory", peak>>20)
			}
			t.Logf("%d reports, %+v, at most %d MiB of memory", reports, sum, peak>>20)
		})
	}
}

var shapes = []struct {
	name   string
	record func(n int) Record
}{
	{"alike", func(n int) Record { return sample(fmt.Sprintf("d%d.example", n%100), n%1000) }},
	{"all clients differ", func(n int) Record { return sample("example.com", n) }},
	{"all domains differ", func(n int) Record { return sample(fmt.Sprintf("d%d.example", n), n) }},
	{"domains with many clients each", func(n int) Record { return sample(fmt.Sprintf("d%d.example", n%50), n) }},
}

func writeShape(t testing.TB, dir string, day Day, records int, record func(int) Record) {
	t.Helper()
	d, err := openDirectory(dir, 4<<30)
	if err != nil {
		t.Fatal(err)
	}
	j := &Journal{dir: d}
	for n := range records {
		j.take(mustQueue(t, day, record(n)))
	}
	j.write()
	if err := d.close(); err != nil || j.lost.Load() > 0 {
		t.Fatal(err, j.lost.Load())
	}
}

// BenchmarkJournal is what a message costs the goroutine that writes.
func BenchmarkJournal(b *testing.B) {
	d, err := openDirectory(b.TempDir(), 64<<30)
	if err != nil {
		b.Fatal(err)
	}
	j := &Journal{dir: d, day: DayOf(someTime)}
	r := sample("example.com", 1)
	b.ReportAllocs()
	for b.Loop() {
		j.take(mustQueue(b, j.day, r))
	}
	j.write()
	if err := d.close(); err != nil || j.lost.Load() > 0 {
		b.Fatal(err)
	}
}

// BenchmarkReports makes the reports on a day of a million messages.
func BenchmarkReports(b *testing.B) {
	for _, shape := range shapes {
		b.Run(strings.ReplaceAll(shape.name, " ", "-"), func(b *testing.B) {
			dir, day := b.TempDir(), DayOf(someTime)
			const records = 1_000_000
			writeShape(b, dir, day, records, shape.record)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Reports(b.Context(), dir, day, testConfig(), nil, func(*Report) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(records*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
