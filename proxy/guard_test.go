package proxy

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"slipstream/bench/refpeer"
)

// guardProbeTo is the foreign recipient that a backend is asked about.
const guardProbeTo = "relay-probe@example.com"

// A guardMood is what a backend says to senders and to the foreign recipient;
// where it is empty, what a normal server says, which takes them all.
type guardMood struct {
	null   string // to MAIL FROM:<>
	sender string // to any other MAIL
	rcpt   string // to RCPT of the foreign recipient
}

// A guardBackend is a backend whose mood may change.
type guardBackend struct {
	*refpeer.Server
	mood atomic.Pointer[guardMood]
}

func (g *guardBackend) feel(m guardMood) { g.mood.Store(&m) }

// guardedBy puts a backend behind a door that must ask it first.
func (w *world) guardedBy(s *refpeer.Server, m guardMood) *guardBackend {
	g := &guardBackend{Server: s}
	g.feel(m)
	s.Behave = func(ev refpeer.Event) refpeer.Action {
		mood, say := g.mood.Load(), ""
		switch {
		case ev.Kind != refpeer.Command:
		case ev.Verb == "MAIL" && ev.Address == "":
			say = mood.null
		case ev.Verb == "MAIL":
			say = mood.sender
		case ev.Verb == "RCPT" && ev.Address == guardProbeTo:
			say = mood.rcpt
		}
		if say == "" {
			return refpeer.Action{}
		}
		return refpeer.Say(say)
	}
	w.serve(backendAddr, s)
	w.inbound(func(in *InboundConfig) { in.BackendTrustsUs = false })
	return g
}

// guardLocksteps are backends that are asked command by command, and those that
// could be asked in one flight.
func guardLocksteps() map[string]*refpeer.Server {
	return map[string]*refpeer.Server{
		"lock step": {StrictLockstep: true},
		"pipelined": {Keywords: refpeer.Modern(), StrictLockstep: true},
	}
}

// Only an answer to the foreign recipient, behind a sender that was taken, tells
// whether a backend relays. Everything else must leave the door shut: who cannot
// be asked may be an open relay.
func TestGuardOpensOnRefusalToRelayAlone(t *testing.T) {
	const (
		open   = "open"
		shut   = "shut"
		relays = "relays"
	)
	no := "550 5.7.1 relaying denied"
	for name, tt := range map[string]struct {
		mood guardMood
		want string
		asks bool   // goes on asking
		why  string // what Ready and the log say of a door that is shut
	}{
		"sender put off":                           {guardMood{null: "452 4.3.1 Insufficient system storage"}, shut, true, "452 4.3.1"},
		"sender put off, recipient out of order":   {guardMood{null: "452 4.3.1 Insufficient system storage", rcpt: "503 5.5.1 MAIL first"}, shut, true, "452 4.3.1"},
		"sender put off, recipient would relay":    {guardMood{null: "451 4.7.1 later", rcpt: "250 2.1.5 ok"}, shut, true, "451 4.7.1"},
		"null sender refused, recipient refused":   {guardMood{null: "550 5.7.1 no bounces", rcpt: no}, open, false, ""},
		"null sender refused, recipient taken":     {guardMood{null: "550 5.7.1 no bounces"}, relays, false, ""},
		"null sender refused, the other put off":   {guardMood{null: "550 5.7.1 no bounces", sender: "451 4.3.0 later"}, shut, true, "451 4.3.0"},
		"every sender refused":                     {guardMood{null: "550 5.7.1 no bounces", sender: "553 5.7.1 not you"}, shut, true, "553 5.7.1"},
		"recipient refused":                        {guardMood{rcpt: no}, open, false, ""},
		"recipient refused without enhanced code":  {guardMood{rcpt: "550 relaying denied"}, open, false, ""},
		"recipient taken":                          {guardMood{}, relays, false, ""},
		"recipient will be forwarded":              {guardMood{rcpt: "251 2.1.5 will forward"}, relays, false, ""},
		"relaying put off for good":                {guardMood{rcpt: "454 4.7.1 Relay access denied"}, open, false, ""},
		"greylisted":                               {guardMood{rcpt: "450 4.2.0 greylisted"}, open, true, ""},
		"greylisted with the code of policies":     {guardMood{rcpt: "451 4.7.1 Greylisting in action, please come back"}, open, true, ""},
		"relaying denied with a domain's code":     {guardMood{rcpt: "550 5.1.2 Relay not allowed."}, open, false, ""},
		"domain takes no mail":                     {guardMood{rcpt: "556 5.1.10 nullMX"}, shut, true, "relay_probe_to"},
		"domain takes no mail, by its code alone":  {guardMood{rcpt: "556 no mail there"}, shut, true, "relay_probe_to"},
		"domain takes no mail, by enhanced code":   {guardMood{rcpt: "550 5.1.10 nullMX"}, shut, true, "relay_probe_to"},
		"domain does not exist":                    {guardMood{rcpt: "550 5.1.2 Domain not found"}, shut, true, "relay_probe_to"},
		"domain cannot be looked up":               {guardMood{rcpt: "450 4.1.2 Domain not found"}, shut, true, "relay_probe_to"},
		"domain cannot be looked up, other code":   {guardMood{rcpt: "451 4.4.3 name service error"}, shut, true, "relay_probe_to"},
		"domain cannot be routed to, says the hop": {guardMood{rcpt: "550 5.4.4 unable to route"}, shut, true, "relay_probe_to"},
	} {
		for how := range guardLocksteps() {
			t.Run(name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					g := w.guardedBy(guardLocksteps()[how], tt.mood)
					p := w.build()
					core, logs := observer.New(zap.DebugLevel)
					p.log = zap.New(core)
					err := p.Start(t.Context())
					t.Cleanup(w.stop)
					var relay *RelayError
					if got := errors.As(err, &relay); got != (tt.want == relays) || err != nil && !got {
						t.Fatalf("start: %v", err)
					}
					switch tt.want {
					case relays:
						w.refused(inboundAt)
						return
					case open:
						w.client(inboundAt).ask("QUIT", "221 ")
						if err := p.Ready(); err != nil {
							t.Errorf("not ready: %v", err)
						}
					default:
						w.shut(tt.why)
						if !guardLogged(logs, tt.why) {
							t.Errorf("the log does not mention %q: %v", tt.why, logs.All())
						}
					}
					asked := g.Accepted()
					time.Sleep(5 * time.Minute)
					if asks := g.Accepted() > asked; asks != tt.asks {
						t.Errorf("asked again: %t", asks)
					}
					if tt.want == shut {
						w.shut(tt.why) // it has not been forgotten meanwhile
					}
					if v := g.Violations(); len(v) > 0 {
						t.Error(v)
					}
				})
			})
		}
	}
}

// guardLogged tells whether a line of the log gives a reason.
func guardLogged(logs *observer.ObservedLogs, why string) bool {
	for _, e := range logs.All() {
		if err, ok := e.ContextMap()["error"].(string); ok && strings.Contains(err, why) {
			return true
		}
	}
	return false
}

// A backend that has no room for mail when we start is no reason not to start:
// its door opens as soon as it takes a sender and refuses to relay.
func TestGuardOpensWhenBackendRecovers(t *testing.T) {
	for how := range guardLocksteps() {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				g := w.guardedBy(guardLocksteps()[how], guardMood{null: "452 4.3.1 Insufficient system storage"})
				w.start()
				w.shut("452 4.3.1")
				g.feel(guardMood{rcpt: "550 5.7.1 relaying denied"})
				time.Sleep(probeEveryMax + time.Second)
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				c.deliver("m")
				if err := w.proxy.Ready(); err != nil {
					t.Errorf("not ready: %v", err)
				}
			})
		})
	}
}

// A greylist may hide a relay. Once it shows, the door is shut; once the backend
// is mended, it opens again without a restart.
func TestGuardShutsOnRelayFoundLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		g := w.guardedBy(&refpeer.Server{Keywords: refpeer.Modern()}, guardMood{rcpt: "450 4.2.0 greylisted"})
		w.start()
		w.client(inboundAt).ask("QUIT", "221 ")
		g.feel(guardMood{})
		time.Sleep(probeEveryMax + time.Second)
		w.shut("open relay")
		time.Sleep(10 * time.Minute)
		w.shut("open relay")
		g.feel(guardMood{rcpt: "550 5.7.1 relaying denied"})
		time.Sleep(probeEveryMax + time.Second)
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		c.deliver("m")
		if err := w.proxy.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

// Who came in before a relay was found must not go on relaying: a session may
// last for hours.
func TestGuardTurnsOutThoseInside(t *testing.T) {
	for name, flight := range map[string]string{
		"lock step": "MAIL FROM:<spam@client.example>",
		"pipelined": "MAIL FROM:<spam@client.example>\r\nRCPT TO:<victim@elsewhere.example>\r\nDATA",
		"chunked":   "MAIL FROM:<spam@client.example>\r\nRCPT TO:<victim@elsewhere.example>\r\nBDAT 4 LAST\r\nx\r\n",
	} {
		for _, used := range []bool{false, true} {
			t.Run(name+map[bool]string{false: "/fresh", true: "/used"}[used], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					g := w.guardedBy(&refpeer.Server{Keywords: refpeer.Modern()}, guardMood{rcpt: "450 4.2.0 greylisted"})
					w.start()
					c := w.client(inboundAt)
					c.ask("EHLO client.example", "250")
					if used { // a connection to the backend is kept for this client
						c.deliver("m")
					}
					had := len(g.Messages())
					g.feel(guardMood{})
					time.Sleep(probeEveryMax + time.Second)
					w.shut("open relay")
					c.ask(flight, "421 4.3.2 ")
					if got := c.rest(); strings.Contains(got, "250") || strings.Contains(got, "354") {
						t.Errorf("behind 421 the client heard %q", got)
					}
					if n := len(g.Messages()); n != had {
						t.Errorf("%d messages came through the shut door", n-had)
					}
					for _, conn := range g.Connections() {
						if strings.Contains(strings.Join(conn.Commands, "\n"), "victim@") {
							t.Error("the backend was asked about the foreign recipient")
						}
					}
				})
			})
		}
	}
}
