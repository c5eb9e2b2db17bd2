package aggregate

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/auth"
	"slipstream/auth/arc"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		childMain(role)
		return
	}
	goleak.VerifyTestMain(m)
}

// judged makes the auth.Report of a message that fails against a record.
func judged(t testing.TB, record string) *auth.Report {
	t.Helper()
	parsed, ok := auth.ParseRecord(record)
	if !ok {
		t.Fatalf("%.80q is no record", record)
	}
	return &auth.Report{
		Envelope: auth.Envelope{Client: netip.MustParseAddr("192.0.2.1"), Helo: "mx.example.net", MailFrom: "a@example.net"},
		SPF: auth.SPFResult{
			Value: auth.ResultFail, Domain: "example.net", Scope: auth.ScopeMailFrom, Reason: "not listed",
		},
		ARC: arc.Result{Value: arc.None},
		DMARC: auth.Verdict{
			Status: auth.StatusReject, Result: auth.ResultFail, Domain: "example.com", PolicyDomain: "example.com",
			OrgDomain: "example.com", Record: &parsed, Policy: parsed.P,
		},
		Decision: auth.Decision{Action: auth.ActionAccept},
	}
}

const rejecting = "v=DMARC1; p=reject; rua=mailto:rua@example.com"

// sample is a record of a message from the nth client to a domain.
func sample(domain string, n int) Record {
	return Record{
		Published: Published{
			Domain: domain, Method: "treewalk", P: "reject", SP: "reject", NP: "reject", FO: "0", ADKIM: "r", ASPF: "r",
			RUA: []string{"mailto:rua@" + domain},
		},
		Row: Row{
			IP: netip.AddrFrom4([4]byte{198, byte(n >> 16), byte(n >> 8), byte(n)}).String(), Disposition: "none",
			HeaderFrom: domain, MailFrom: "bounces." + domain,
			Reasons:    []Reason{{reasonLocalPolicy, "policies are not enforced"}},
			Signatures: []Signature{{domain, "s2026", "fail", "the body is not what was signed"}},
			SPFDomain:  "bounces." + domain, SPFResult: "softfail", SPFHuman: "matched ~all",
		},
	}
}

func testConfig() Config {
	return Config{Submitter: "mx.example.org", OrgName: "Örg & Söhne <x>", ContactInfo: "https://example.org/?a&b"}
}

func openJournal(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func flush(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// written makes a directory with a day of records.
func written(t testing.TB, day Day, records ...Record) (dir string) {
	t.Helper()
	dir = t.TempDir()
	writeDay(t, dir, day, records...)
	return dir
}

func writeDay(t testing.TB, dir string, day Day, records ...Record) {
	t.Helper()
	d, err := openDirectory(dir, DefaultMaxSize)
	if err != nil {
		t.Fatal(err)
	}
	j := &Journal{dir: d}
	for _, r := range records {
		j.take(mustQueue(t, day, r))
	}
	j.write()
	if err := d.close(); err != nil || j.lost.Load() > 0 {
		t.Fatal(err, j.lost.Load())
	}
}

func mustQueue(t testing.TB, day Day, r Record) queued {
	t.Helper()
	q, err := newQueued(day, r)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// made returns all reports on a day.
func made(t testing.TB, dir string, day Day, c Config) ([]*Report, Summary) {
	t.Helper()
	var list []*Report
	sum, err := Reports(context.Background(), dir, day, c, nil, func(r *Report) error {
		list = append(list, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list, sum
}

func mustDay(t testing.TB, s string) Day {
	t.Helper()
	day, err := ParseDay(s)
	if err != nil {
		t.Fatal(err)
	}
	return day
}

// events collects what is told.
type events struct {
	mu   sync.Mutex
	list []Event
}

func (e *events) observe(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
}

// take returns the events of a kind so far, and forgets all.
func (e *events) take(kind Kind) (list []Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, event := range e.list {
		if event.Kind == kind {
			list = append(list, event)
		}
	}
	e.list = nil
	return list
}

// asked is a Destinations that knows what to say of each mailbox; what it does not know it wants.
type asked map[string]askedAnswer

type askedAnswer struct {
	to   []string
	err  error
	late time.Duration // how long it takes
}

func (a asked) Addresses(
	ctx context.Context, _ string, to auth.ReportURI, tag auth.ReportTag,
) ([]auth.ReportURI, error) {
	if tag != auth.TagRUA {
		return nil, fmt.Errorf("asked about %s", tag)
	}
	answer, known := a[to.Mailbox]
	if !known {
		return []auth.ReportURI{to}, nil
	}
	if answer.late > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(answer.late):
		}
	}
	var list []auth.ReportURI
	for _, mailbox := range answer.to {
		list = append(list, auth.ReportURI{Text: "mailto:" + mailbox, Scheme: "mailto", Mailbox: mailbox})
	}
	return list, answer.err
}

var (
	_ Destinations = asked(nil)
	_ Destinations = auth.Destinations{}
)

// peerFile finds a program that "make peers" has unpacked.
func peerFile(t testing.TB, path string) string {
	t.Helper()
	file, err := filepath.Abs(filepath.Join("..", "..", ".peers", path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Skipf("%s is not here (make peers fetches it): %v", path, err)
	}
	return file
}

var someTime = time.Date(2026, 5, 31, 12, 0, 0, 0, time.UTC)
