package proxy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// tapEnvelopeLines is the envelope of a small message, with DATA behind it.
const tapEnvelopeLines = "MAIL FROM:<a@client.example>\r\nRCPT TO:<one@example.org>\r\nDATA"

// tapped are the copies in a directory by name, each whole.
func tapped(t *testing.T, dir string) (list []tapMail, texts []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name, is := strings.CutSuffix(e.Name(), tapEnvelope)
		switch {
		case strings.HasPrefix(e.Name(), "."):
			t.Errorf("%s was left behind", e.Name())
		case !is && !strings.HasSuffix(e.Name(), tapText):
			t.Errorf("%s is nobody's", e.Name())
		case is:
			var m tapMail
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err == nil {
				err = json.Unmarshal(b, &m)
			}
			text, err2 := os.ReadFile(filepath.Join(dir, name+tapText))
			if err != nil || err2 != nil || m.File != name+tapText || m.Octets != int64(len(text)) {
				t.Errorf("%s: %v, %v: %d octets, and the envelope: %s", name, err, err2, len(text), b)
			}
			list, texts = append(list, m), append(texts, string(text))
		}
	}
	if len(entries) != 2*len(list) {
		t.Errorf("%d files for %d copies", len(entries), len(list))
	}
	return list, texts
}

// All that a copy says of a message, at both kinds of doors.
func TestTapCopy(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Tap.Dir = dir
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), TLS: newTestCert(t, "mx.example.org").server(),
			RcptReplies: map[string]string{"no@example.org": "550 5.1.1 nobody"}})
		w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound(func(o *OutboundConfig) { o.AddReceived, o.LateVerdict = true, false })
		w.inbound()
		w.start()
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		c.talk("MAIL FROM:<gr\u00fcn+<\"a@client.example> SMTPUTF8 body=8BITMIME SIZE=100", "501 ")
		c.talk("MAIL FROM:<gr\u00fcn&x@client.example> SMTPUTF8 body=8BITMIME SIZE=100", "250 ",
			"RCPT TO:<one@example.org>", "250 ", "RCPT TO:<no@example.org>", "550 ", "DATA", "354 ")
		time.Sleep(3 * time.Second)
		c.talk("Subject: x\r\n\r\n..dot\r\n.", "250 ")
		in := w.client(inboundAt)
		in.ask("EHLO other.example", "250")
		in.talk("MAIL FROM:<>", "250 ", `RCPT TO:<"odd \" one"@example.net>`, "250 ",
			"DATA", "354 ", "Subject: y\r\n\r\n.", "250 ")
		w.stop()
	})
	list, texts := tapped(t, dir)
	if len(list) != 2 {
		t.Fatalf("%d copies, want 2", len(list))
	}
	first, second := list[0], list[1]
	if took := first.Finished.Sub(first.Received); took != 3*time.Second || first.Received.Location() != time.UTC {
		t.Errorf("from %v to %v", first.Received, first.Finished)
	}
	received, rest, _ := strings.Cut(texts[0], "\r\nSubject:")
	if !strings.HasPrefix(received, "Received: from client.example") || rest != " x\r\n\r\n.dot\r\n" {
		t.Errorf("the text is %q", texts[0])
	}
	if !strings.HasPrefix(first.ID, first.Session+".") ||
		!strings.HasPrefix(first.File, first.Finished.Format(tapTime)+"-"+first.ID+"-") {
		t.Errorf("id %q, session %q, file %q", first.ID, first.Session, first.File)
	}
	for _, m := range []*tapMail{&first, &second} {
		m.ID, m.Session, m.File, m.Octets, m.Client.Port = "", "", "", 0, 0
		m.Received, m.Finished = time.Time{}, time.Time{}
	}
	none := map[string]string{}
	const suite = "TLS 1.3:TLS_AES_128_GCM_SHA256"
	want := tapMail{
		Version: 1, Door: tapDoor{"outbound", "outbound", "smtp"},
		Client: tapClient{clientHost, 0, "client.example", "none"},
		Sender: tapAddress{"gr\u00fcn&x@client.example",
			map[string]string{"SMTPUTF8": "", "BODY": "8BITMIME", "SIZE": "100"}},
		Recipients: []tapRecipient{
			{tapAddress{"one@example.org", none}, "sent", false, 250, "2.0.0", "taken", attributionHop, suite},
			{tapAddress{"no@example.org", none}, "bounced", false, 550, "5.1.1", "nobody", attributionHop, suite},
		},
		Status: "sent",
	}
	if !reflect.DeepEqual(first, want) {
		t.Errorf("got  %+v\nwant %+v", first, want)
	}
	want = tapMail{
		Version: 1, Door: tapDoor{"inbound", "inbound", "smtp"},
		Client: tapClient{clientHost, 0, "other.example", "none"},
		Sender: tapAddress{"", none},
		Recipients: []tapRecipient{
			{tapAddress{`"odd \" one"@example.net`, none}, "sent", false, 250, "2.0.0", "taken", "[203.0.113.1]:25", "none"},
		},
		Status: "sent",
	}
	if !reflect.DeepEqual(second, want) {
		t.Errorf("got  %+v\nwant %+v", second, want)
	}
}

// What was delivered to somebody is copied, or may have been; nothing else is.
func TestTapWhatIsCopied(t *testing.T) {
	final := func(a refpeer.Action) *refpeer.Server {
		return &refpeer.Server{Keywords: refpeer.Modern(), Behave: lmtpFinal(a)}
	}
	for _, tt := range []struct {
		name     string
		hop      *refpeer.Server
		want     []string // outcomes
		unwanted bool     // the door is none of those
		says     string
	}{
		{name: "delivered", hop: final(refpeer.Action{}), want: []string{"sent", "sent"}, says: "250 "},
		{name: "refused", hop: final(refpeer.Say("554 5.7.1 spam")), says: "554 "},
		{name: "put off", hop: final(refpeer.Say("451 4.7.1 later")), says: "451 "},
		{name: "in doubt", hop: final(refpeer.Action{Close: true}), says: "451 4.4.2",
			want: []string{"unknown", "unknown"}},
		{name: "another door", hop: final(refpeer.Action{}), unwanted: true, says: "250 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.Tap.Dir, w.cfg.Tap.Doors = dir, []string{"outbound"}
				if tt.unwanted {
					w.cfg.Tap.Doors = []string{"inbound"}
				}
				w.serve(mxAddr, tt.hop)
				w.outbound()
				w.inbound()
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.talk("MAIL FROM:<a@client.example>\r\nRCPT TO:<one@example.org>\r\nRCPT TO:<two@example.org>\r\nDATA",
					"250 | 250 | 250 | 354 ", "Subject: x\r\n\r\n.", tt.says)
				c.ask("QUIT", "221 ")
				w.stop()
				if free := w.proxy.spools.free.Load(); free != int64(w.cfg.Limits.SpoolMemory) {
					t.Errorf("%d octets of memory are left, want all of %d", free, w.cfg.Limits.SpoolMemory)
				}
			})
			list, _ := tapped(t, dir)
			var got []string
			for _, m := range list {
				for _, rc := range m.Recipients {
					got = append(got, rc.Outcome)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("copied: %q, want %q", got, tt.want)
			}
		})
	}
}

// A reload switches copies on and off, and sends them elsewhere, also for clients
// that are inside.
func TestTapReload(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound()
		w.start()
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		for i, dir := range []string{"", one, two, "", one} {
			cfg := *w.cfg
			if cfg.Tap.Dir = dir; i > 0 {
				if err := w.proxy.Reload(t.Context(), &cfg); err != nil {
					t.Fatal(err)
				}
			}
			c.talk(tapEnvelopeLines, "250 | 250 | 354 ", "Subject: x\r\n\r\n.", "250 ")
			synctest.Wait() // the copy is in its place
		}
	})
	for dir, want := range map[string]int{one: 2, two: 1} {
		if list, _ := tapped(t, dir); len(list) != want {
			t.Errorf("%d copies, want %d", len(list), want)
		}
	}
}

// Doors without a directory would be copied nowhere.
func TestTapConfigNoDir(t *testing.T) {
	for tap, want := range map[string]string{
		"doors = [\"in\"]":                 `5:9: tap.doors: is set without tap.dir, so nothing is copied; set dir, or take doors out`,
		"doors = [\"in\"]\ndir = \"\"":     `5:9: tap.doors: is set without tap.dir`,
		"doors = []":                       "",
		"doors = [\"in\"]\ndir = \"here\"": "",
	} {
		_, err := ParseConfig("slipstream.toml", []byte("hostname = \"proxy.example\"\n[[inbound]]\nname = \"in\"\n[tap]\n"+tap+"\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v\nwant %s", tap, err, want)
		}
	}
}

// What is wrong with the names of doors is said where it stands.
func TestTapConfig(t *testing.T) {
	const doors = "hostname = \"proxy.example\"\n[[inbound]]\nname = \"in\"\n[[outbound]]\nname = \"out\"\n[tap]\ndir = \"copies\"\n"
	for tap, want := range map[string]string{
		`doors = ["in", "out"]`:      "",
		`doors = ["in", "outbound"]`: `8:16: tap.doors[1]: "outbound" is not the name of a door; allowed: "in", "out"`,
		`doors = ["in", "in"]`:       `8:16: tap.doors[1]: "in" is there twice`,
		`max_size = "10KB"`:          `8:12: tap.max_size: 10KB is too small; allowed: at least 1MB, at most 1TB`,
	} {
		cfg, err := ParseConfig("/etc/slipstream/slipstream.toml", []byte(doors+tap+"\n"))
		switch {
		case want == "" && (err != nil || cfg.Tap.Dir != "/etc/slipstream/copies"):
			t.Errorf("%s: %v, %+v", tap, err, cfg)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v\nwant %s", tap, err, want)
		}
	}
}
