package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipstream/bench"
)

var (
	shots = flag.String("shots", "", "a directory to put pictures of the page into")
	saved = flag.String("report", "testdata/report.json", "a saved run, to look at instead of the fixture")
)

// checkPage is run in the page and returns its complaints.
//
//go:embed testdata/check.js
var checkPage string

// findings is what checkPage returns.
type findings struct {
	Complaints []string
	Cells      []string
	Ladders    int
	Labels     int
}

// TestInChromium looks at the page as a reader does: on a screen in light and dark, on a phone, on paper.
func TestInChromium(t *testing.T) {
	b := startBrowser(t)
	r := savedFixture(t)
	page := writePage(t, r)
	for _, c := range []struct {
		name          string
		width, height int
		scale         float64
		scheme        string
	}{
		{"light", 1280, 800, 1, "light"},
		{"dark", 1280, 800, 1, "dark"},
		{"tablet", 800, 1000, 1, "light"},
		{"phone", 360, 800, 2, "light"},
		{"phone-dark", 360, 800, 2, "dark"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			b.screen(c.width, c.height, c.scale, c.scheme)
			b.open(page)
			checkRequests(t, b, page)
			var f findings
			b.eval(checkPage, &f)
			for _, complaint := range f.Complaints {
				t.Error(complaint)
			}
			if d := cmp.Diff(cellNames(r), f.Cells); d != "" {
				t.Errorf("the table is not of all cells (-want +got):\n%s", d)
			}
			if want := conversations(r); f.Ladders != want {
				t.Errorf("%d ladders, want %d", f.Ladders, want)
			}
			if f.Labels < 10*f.Ladders {
				t.Errorf("only %d labels on %d ladders", f.Labels, f.Ladders)
			}
			savePictures(t, b, c.name)
		})
	}
	t.Run("paper", func(t *testing.T) {
		b.t = t
		b.screen(1280, 800, 1, "dark")
		b.open(page)
		pdf := b.print()
		if !bytes.HasPrefix(pdf, []byte("%PDF-")) || len(pdf) < 20<<10 {
			t.Errorf("%d octets that begin with %q are no PDF of this page", len(pdf), pdf[:min(8, len(pdf))])
		}
		save(t, "paper.pdf", pdf)
	})
}

// writePage renders a report into a file.
func writePage(t *testing.T, r *bench.Report) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.html")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := HTML(f, r); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkRequests sees that the page asked for nothing but itself, and that nothing in it spoke up.
func checkRequests(t *testing.T, b *browser, page string) {
	t.Helper()
	for _, e := range b.events {
		switch e.Method {
		case "Network.requestWillBeSent":
			var p struct{ Request struct{ URL string } }
			if err := json.Unmarshal(e.Params, &p); err != nil {
				t.Fatal(err)
			}
			if p.Request.URL != "file://"+page {
				t.Errorf("the page asked for %s", p.Request.URL)
			}
		case "Page.javascriptDialogOpening":
			t.Errorf("a script of the report's ran: %s", e.Params)
		}
	}
}

func cellNames(r *bench.Report) []string {
	var names []string
	for _, g := range groups(r) {
		for _, p := range g.pairs {
			for _, res := range []*bench.Result{p.direct, p.through} {
				if res != nil {
					names = append(names, res.Cell.Name())
				}
			}
		}
	}
	return names
}

// conversations counts the ladders that there must be.
func conversations(r *bench.Report) int {
	n := 0
	for _, g := range groups(r) {
		n += g.headline(headlineRTT).figures()
	}
	return n
}

func save(t *testing.T, name string, data []byte) {
	t.Helper()
	if *shots == "" {
		return
	}
	if err := os.MkdirAll(*shots, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*shots, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// savePictures takes one of each section and conversation.
func savePictures(t *testing.T, b *browser, name string) {
	t.Helper()
	if *shots == "" {
		return
	}
	var parts []struct {
		Name string
		Y, H float64
		W    float64
	}
	b.eval(`[...document.querySelectorAll('section:not(#talks), article')].map((e, i) => {
		const r = e.getBoundingClientRect();
		const first = i == 0;
		return {Name: String(i).padStart(2, '0') + '-' + (e.id || 'hero'), Y: first ? 0 : r.top + scrollY - 16,
			H: first ? r.bottom + scrollY : r.height + 32, W: innerWidth};
	})`, &parts)
	for _, p := range parts {
		save(t, fmt.Sprintf("%s-%s.png", name, p.Name), b.shot(0, p.Y, p.W, min(p.H, 5000)))
	}
}

// TestNothingFromElsewhere reads the page as text: it must work where there is no network.
func TestNothingFromElsewhere(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, savedFixture(t)); err != nil {
		t.Fatal(err)
	}
	text := strings.ToLower(b.String())
	for _, never := range []string{
		"http://", "https://", "src=", "<script", "<link", "<img", "@import", "url(", "javascript:",
	} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %q", never)
		}
	}
	if handler := regexp.MustCompile(`<[^>]*\son[a-z]+=`).FindString(text); handler != "" {
		t.Errorf("the page has a handler: %s", handler)
	}
	if want := `content="default-src 'none'; style-src 'unsafe-inline'"`; !strings.Contains(b.String(), want) {
		t.Errorf("no policy %s", want)
	}
	if !strings.Contains(b.String(), `&lt;script&gt;alert`) {
		t.Error("the hostile names of the fixture are not in the page at all")
	}
	if strings.Contains(b.String(), "ZgotmplZ") {
		t.Error("the template put a value where it may not stand")
	}
}
