package report

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A browser is a headless Chromium, spoken to through a pair of pipes in its DevTools protocol: messages of JSON, each
// with a NUL behind it. https://chromedevtools.github.io/devtools-protocol/
type browser struct {
	t       *testing.T
	to      io.Writer
	from    *bufio.Reader
	session string
	next    int
	events  []event // those that came in while an answer was awaited
}

type event struct {
	Method string
	Params json.RawMessage
}

// browserTime bounds all that a test does with a browser.
const browserTime = 2 * time.Minute

// findChromium returns the program and the tree it lies in.
func findChromium(t *testing.T) (program, tree string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("Chromium comes from Debian's packages, and this is not Linux")
	}
	dir := os.Getenv("SLIPSTREAM_PEERS")
	if dir == "" {
		dir = filepath.Join("..", "..", ".peers")
	}
	tree, err := filepath.Abs(filepath.Join(dir, "chromium"))
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(tree, "usr/lib/chromium/chromium-headless-shell")
	if _, err := os.Stat(program); err != nil {
		t.Skip(`no Chromium; "make peers" fetches it: `, err)
	}
	return program, tree
}

// startBrowser starts a Chromium with an empty page, or skips the test where there is none.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	program, tree := findChromium(t)
	home := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), browserTime) // t.Context ends before the clean-up
	cmd := exec.CommandContext(ctx, program,
		"--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--no-first-run", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
		"--user-data-dir="+filepath.Join(home, "profile"), "about:blank")
	cmd.Env = chromiumEnv(t, tree, home)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = 5 * time.Second
	fromUs, to := pipe(t)
	from, toUs := pipe(t)
	cmd.ExtraFiles = []*os.File{fromUs, toUs} // file descriptors 3 and 4
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fromUs.Close()
	toUs.Close()
	b := &browser{t: t, to: to, from: bufio.NewReader(from)}
	t.Cleanup(func() {
		to.Close() // a browser whose pipe closes ends
		cmd.Wait()
		cancel()
		from.Close()
		if t.Failed() {
			t.Logf("Chromium said:\n%s", said.String())
		}
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	b.call("Page.enable", nil, nil)
	b.call("Network.enable", nil, nil)
	return b
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

// chromiumEnv lets Chromium find its libraries in the tree it was unpacked to, and only the fonts that lie there: so
// the pages look alike everywhere.
func chromiumEnv(t *testing.T, tree, home string) []string {
	t.Helper()
	libraries, err := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range libraries {
		more, _ := filepath.Glob(filepath.Join(dir, "*/"))
		for _, d := range more {
			if info, err := os.Stat(d); err == nil && info.IsDir() {
				libraries = append(libraries, d)
			}
		}
	}
	fonts := filepath.Join(home, "fonts.conf")
	text := fmt.Sprintf("<?xml version=\"1.0\"?>\n<!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">\n"+
		"<fontconfig><dir>%s</dir><cachedir>%s</cachedir></fontconfig>\n",
		filepath.Join(tree, "usr/share/fonts"), filepath.Join(home, "fonts"))
	if err := os.WriteFile(fonts, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=/usr/bin:/bin", "HOME=" + home, "LC_ALL=C.UTF-8", "FONTCONFIG_FILE=" + fonts,
		"LD_LIBRARY_PATH=" + strings.Join(libraries, ":")}
}

// call sends a command and decodes its result, unless result is nil.
func (b *browser) call(method string, params any, result any) {
	b.t.Helper()
	b.next++
	message := map[string]any{"id": b.next, "method": method}
	if params != nil {
		message["params"] = params
	}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		b.t.Fatal("Chromium: ", err)
	}
	for {
		answer := b.read()
		if answer.ID != b.next {
			continue
		}
		if answer.Error != nil {
			b.t.Fatalf("Chromium: %s: %s", method, answer.Error)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				b.t.Fatal(err)
			}
		}
		return
	}
}

type message struct {
	ID            int
	Result, Error json.RawMessage
	event
}

// read takes one message; an event is noted.
func (b *browser) read() message {
	b.t.Helper()
	text, err := b.from.ReadBytes(0)
	if err != nil {
		b.t.Fatal("Chromium: ", err)
	}
	var m message
	if err := json.Unmarshal(text[:len(text)-1], &m); err != nil {
		b.t.Fatal(err)
	}
	if m.Method != "" {
		b.events = append(b.events, m.event)
	}
	return m
}

// open shows a file and waits until it is there.
func (b *browser) open(path string) {
	b.t.Helper()
	b.events = nil
	b.call("Page.navigate", map[string]any{"url": "file://" + path}, nil)
	for {
		for _, e := range b.events {
			if e.Method == "Page.loadEventFired" {
				return
			}
		}
		b.read()
	}
}

// screen sets what the page is shown on. Scale is of pixels to a CSS pixel.
func (b *browser) screen(width, height int, scale float64, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{
		"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600,
	}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{
		"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}},
	}, nil)
}

// eval runs a script in the page, though the page may not, and decodes the value of its last expression.
func (b *browser) eval(script string, value any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("script: %s", r.ExceptionDetails)
	}
	if err := json.Unmarshal(r.Result.Value, value); err != nil {
		b.t.Fatal(err)
	}
}

// shot returns a PNG of a part of the page.
func (b *browser) shot(x, y, width, height float64) []byte {
	b.t.Helper()
	var r struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true,
		"clip": map[string]any{"x": x, "y": y, "width": width, "height": height, "scale": 1}}, &r)
	return b.decode(r.Data)
}

// print returns the page as a PDF on A4.
func (b *browser) print() []byte {
	b.t.Helper()
	var r struct{ Data string }
	b.call("Page.printToPDF", map[string]any{"preferCSSPageSize": true, "printBackground": true}, &r)
	return b.decode(r.Data)
}

func (b *browser) decode(text string) []byte {
	b.t.Helper()
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}
