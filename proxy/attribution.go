package proxy

import (
	"crypto/tls"
	"errors"
	"slices"
	"strings"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// The words of reply_attribution.
const (
	attributionOff  = "off"
	attributionHost = "host"
	attributionFull = "full"
)

// Attribution: the MTA puts what it hears into the bounce that it writes, and of
// its next hop it knows no more than that it is us. So a refusal says on whose
// behalf it is said, behind the hop's own words, which stay as they are to the
// octet, as do code and enhanced code. Inbound doors have none: strangers learn
// nothing about a backend.

// An attribution is how much of that is said; the zero value is nothing.
type attribution string

func (a attribution) on() bool { return a == attributionHost || a == attributionFull }

// said tells whose words a hop's refusal is made of.
func (a attribution) said(r smtpwire.Reply, p *peer) smtpwire.Reply {
	if p == nil {
		return r
	}
	return a.added(r, "said by "+p.label+a.protection(p))
}

// meant tells which hop a refusal is about that we composed in its place.
func (a attribution) meant(r smtpwire.Reply, p *peer) smtpwire.Reply {
	return a.added(r, "of "+p.label+a.protection(p))
}

// added adds a remark to a refusal, whatever is in it: a hop that names itself, or
// another, must not get rid of ours by that.
func (a attribution) added(r smtpwire.Reply, remark string) smtpwire.Reply {
	if !a.on() || r.Class() < 4 {
		return r
	}
	return remarked(r, remark)
}

// meant is a refusal that we composed about a hop, with its name. The leg remembers
// it, so that nobody takes it for the hop's own words on its way to the client.
func (l *leg) meant(r smtpwire.Reply, p *peer) smtpwire.Reply {
	r.Lines = slices.Clone(r.Lines) // what is remembered is this reply, and not one that is worded alike
	r = l.tx.s.door.attribution.meant(r, p)
	if len(r.Lines) > 0 {
		l.composed = append(l.composed, &r.Lines[0])
	}
	return r
}

// said is a hop's reply with whose it is, unless we composed it: by the reply
// itself, since words can be anybody's.
func (l *leg) said(r smtpwire.Reply) smtpwire.Reply {
	if len(r.Lines) > 0 && slices.Contains(l.composed, &r.Lines[0]) {
		return shortened(r.WithEnhanced())
	}
	return l.tx.s.door.attribution.said(shortened(r.WithEnhanced()), l.peer)
}

// protection is how the words of a hop were protected, behind its name.
func (a attribution) protection(p *peer) string {
	if a != attributionFull {
		return ""
	}
	return ", " + protocol(p.tls)
}

// protocol names the version of TLS as MTAs do.
func protocol(state *tls.ConnectionState) string {
	if state == nil {
		return "no TLS"
	}
	return strings.Replace(tls.VersionName(state.Version), "TLS ", "TLSv", 1)
}

// retold adds to a refusal that repeats a hop's words with its name what else
// there is to say.
func (a attribution) retold(r smtpwire.Reply, p *peer) smtpwire.Reply {
	if a != attributionFull || p == nil {
		return r
	}
	return remarked(r, protocol(p.tls))
}

// explained adds to a refusal that was made of trouble with a hop, and names it,
// how far it had come: over what, and what it had greeted us with. Where the
// greeting was a refusal, it is in the text already.
func (a attribution) explained(r smtpwire.Reply, err error) smtpwire.Reply {
	var trouble *peerError
	if a != attributionFull || r.Class() < 4 || !errors.As(err, &trouble) || trouble.banner == "" {
		return r
	}
	var refused *refusalError
	var noRoute *route.Error
	if errors.As(err, &refused) || errors.As(err, &noRoute) { // the reply was made of that
		return r
	}
	return remarked(r, protocol(trouble.tls)+`, greeting "`+cut(trouble.banner, maxGreetingTold)+`"`)
}

// maxGreetingTold bounds how many octets of a greeting a refusal repeats.
const maxGreetingTold = 200

// maxReplyTextLine is what a line of a reply may have behind its code and before
// its end, so that it has no more than 512 octets in all.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.5
const maxReplyTextLine = 512 - len("550 ") - len("\r\n")

// remarked puts a remark of ours, in brackets, at the end of a refusal: behind its
// last line or, where that would become too long, on a further one.
func remarked(r smtpwire.Reply, remark string) smtpwire.Reply {
	remark = "(" + replyText(remark) + ")"
	lines := slices.Clone(r.Lines)
	last := len(lines) - 1
	if last >= 0 && len(lines[last])+1+len(remark) <= maxReplyTextLine {
		lines[last] += " " + remark
		return smtpwire.Reply{Code: r.Code, Lines: lines}
	}
	if code, ok := r.Enhanced(); ok { // https://www.rfc-editor.org/rfc/rfc2034#section-4
		remark = code + " " + remark
	}
	return smtpwire.Reply{Code: r.Code, Lines: append(lines, remark)}
}
