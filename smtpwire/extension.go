package smtpwire

import (
	"slices"
	"strconv"
	"strings"
)

// pipeConnect is the keyword of early pipelining.
const pipeConnect = "PIPECONNECT"

// Scope tells how far an extension reaches when a proxy stands between.
type Scope uint8

const (
	// Masked extensions are never advertised: we do not do the duty that they
	// bring, or they are for neighbours that we are not.
	Masked Scope = iota

	// HopByHop extensions are between two neighbours. We advertise what our
	// own door can do, whatever the next hop can, and use what it can.
	HopByHop

	// EndToEnd extensions belong to the message. We advertise them where the
	// next hop does, and pass their parameters on unchanged.
	EndToEnd
)

// An Extension is one row of the table of [Extensions].
type Extension struct {
	Keyword string   // in the EHLO reply
	Aliases []string // other spellings of it
	RFC     string   // number, or the name of what defines it
	Scope   Scope

	// Needs is a keyword that must be offered too for this one to be of use.
	Needs string

	Mail, Rcpt []string // the parameters that it licenses

	// Check reports why a parameter has not the value that it must have; ""
	// is none at all. nil accepts any.
	Check func(name, value string) error

	// tolerated parameters are licensed without an offer too.
	tolerated bool

	// ours: Adapt leaves the parameters out whatever the hop offers.
	ours bool

	// What Adapt does with a parameter when the hop lacks the extension:
	// leave it out or refuse the command, by default as 555 5.5.4.
	drop     bool
	code     int
	enhanced string
}

// extensions is the table. It is only read.
var extensions = [...]Extension{
	// Between two neighbours.
	{Keyword: "PIPELINING", RFC: "2920", Scope: HopByHop},
	// Draft only, and renamed twice, so one row has three names. It is never
	// passed on: who may talk to us early says nothing about the next hop.
	// Exim says PIPECONNECT since 4.96, which is the one to advertise;
	// PIPE_CONNECT was 4.95, X_PIPE_CONNECT 4.92 to 4.94.
	{Keyword: pipeConnect, Aliases: []string{"PIPE_CONNECT", "X_PIPE_CONNECT"}, RFC: "draft-harris-early-pipe",
		Scope: HopByHop, Needs: "PIPELINING"},
	{Keyword: "STARTTLS", RFC: "3207", Scope: HopByHop},
	{Keyword: "ENHANCEDSTATUSCODES", RFC: "2034", Scope: HopByHop},
	{Keyword: "CHUNKING", RFC: "3030", Scope: HopByHop},
	// Offered on our own account, but never more than the hop takes: Offer
	// merges the numbers. The parameter is a hint and may be left out.
	{Keyword: "SIZE", RFC: "1870", Scope: HopByHop, Mail: []string{"SIZE"}, Check: checkSize,
		tolerated: true, drop: true},
	{Keyword: "LIMITS", RFC: "9422", Scope: HopByHop},
	// Who asks us for a reply to each recipient gets it from us. A hop is not
	// asked: it may always answer once for all.
	{Keyword: "PRDR", RFC: "draft-hall-prdr", Scope: HopByHop, Needs: "PIPELINING", Mail: []string{"PRDR"},
		Check: checkNoValue, ours: true},
	// A login is passed on where a door is meant to, and then the door names the
	// mechanisms that survive it. AUTH= of a client that has not logged in would
	// be our word for an identity that nobody checked: the door sees to that.
	{Keyword: "AUTH", RFC: "4954", Scope: HopByHop, Mail: []string{"AUTH"}, Check: checkAuth, drop: true},
	// Questions that a door passes on where it is meant to. VRFY is answered
	// all the same, without being advertised.
	{Keyword: "VRFY", RFC: "5321", Scope: HopByHop},
	{Keyword: "EXPN", RFC: "5321", Scope: HopByHop},
	{Keyword: "ETRN", RFC: "1985", Scope: HopByHop},

	// Belonging to the message.
	//
	// BODY is licensed by two rows, one for each of its families of values.
	{Keyword: "8BITMIME", RFC: "6152", Scope: EndToEnd, Mail: []string{"BODY"}, Check: checkBody,
		tolerated: true, drop: true},
	// No downgrade exists, so a hop without it cannot have the message.
	// "Servers offering this extension MUST provide support for, and
	// announce, the 8BITMIME extension": RFC 6531 section 3.1.
	{Keyword: "SMTPUTF8", RFC: "6531", Scope: EndToEnd, Needs: "8BITMIME", Mail: []string{"SMTPUTF8"},
		Check: checkNoValue, code: 550, enhanced: "5.6.7"},
	// Offered alone it would oblige us to send the "relayed" and "delivered"
	// notifications ourselves.
	{Keyword: "DSN", RFC: "3461", Scope: EndToEnd, Mail: []string{"RET", "ENVID"}, Rcpt: []string{"NOTIFY", "ORCPT"},
		Check: checkDSN, drop: true},
	// The next four work by their parameters alone. To leave out the first
	// two or the last would deliver what should have been held or returned.
	{Keyword: "DELIVERBY", RFC: "2852", Scope: EndToEnd, Mail: []string{"BY"}, Check: checkBy},
	{Keyword: "FUTURERELEASE", RFC: "4865", Scope: EndToEnd, Mail: []string{"HOLDFOR", "HOLDUNTIL"}, Check: checkHold},
	{Keyword: "MT-PRIORITY", RFC: "6710", Scope: EndToEnd, Mail: []string{"MT-PRIORITY"}, Check: checkPriority, drop: true},
	{Keyword: "RRVS", RFC: "7293", Scope: EndToEnd, Rcpt: []string{"RRVS"}, Check: checkRRVS},

	// Masked.
	//
	// A binary body may hold bare CR, bare LF and NUL, which never cross.
	{Keyword: "BINARYMIME", RFC: "3030", Needs: "CHUNKING", Mail: []string{"BODY"}, Check: checkBinary,
		code: 554, enhanced: "5.6.3"},
	// A promise about every hop to come.
	{Keyword: "REQUIRETLS", RFC: "8689", Mail: []string{"REQUIRETLS"}, Check: checkNoValue, code: 550, enhanced: "5.7.30"},
	// For the backend leg; what a client says of itself this way is not ours
	// to believe.
	{Keyword: "XCLIENT", RFC: "Postfix XCLIENT_README"},
	{Keyword: "XFORWARD", RFC: "Postfix XFORWARD_README"},
	// Commands that would have to be relayed with their meaning. HELP is
	// answered all the same, without being advertised.
	{Keyword: "HELP", RFC: "5321"},
	{Keyword: "TURN", RFC: "821"},
	{Keyword: "ATRN", RFC: "2645"},
	{Keyword: "BURL", RFC: "4468"},
	// Duties of an MTA that a proxy cannot do.
	{Keyword: "CHECKPOINT", RFC: "1845", Mail: []string{"TRANSID"}},
	{Keyword: "NO-SOLICITING", RFC: "3865", Mail: []string{"SOLICIT"}},
	{Keyword: "MTRK", RFC: "3885", Mail: []string{"MTRK"}},
	{Keyword: "CONPERM", RFC: "4141", Mail: []string{"CONPERM"}},
	{Keyword: "CONNEG", RFC: "4141", Rcpt: []string{"CONNEG"}},
	{Keyword: "SUBMITTER", RFC: "4405", Mail: []string{"SUBMITTER"}, drop: true},
	{Keyword: "VERP", RFC: "draft-varshavchik-verp-smtpext", Mail: []string{"VERP"}},
	{Keyword: "XVERP", RFC: "Postfix VERP_README", Mail: []string{"XVERP"}},
}

// Extensions returns a copy of the table of all extensions that we know, in the
// order in which we advertise them. A keyword that is not in it is masked.
func Extensions() []Extension {
	table := slices.Clone(extensions[:])
	for i := range table {
		x := &table[i]
		x.Aliases, x.Mail, x.Rcpt = slices.Clone(x.Aliases), slices.Clone(x.Mail), slices.Clone(x.Rcpt)
	}
	return table
}

// extensionNamed returns the row of an EHLO keyword, or nil.
func extensionNamed(keyword string) *Extension {
	for i := range extensions {
		if x := &extensions[i]; foldEqual(x.Keyword, keyword) || containsFold(x.Aliases, keyword) {
			return x
		}
	}
	return nil
}

// licenses reports whether x gives the parameter to the verb.
func (x *Extension) licenses(v Verb, param string) bool {
	if v == VerbMail {
		return containsFold(x.Mail, param)
	}
	return containsFold(x.Rcpt, param)
}

func (x *Extension) check(p Param) error {
	if x.Check == nil {
		return nil
	}
	return x.Check(p.Name, p.Value)
}

// namedBy reports whether e has the keyword of x in any spelling.
func (x *Extension) namedBy(e EHLO) bool {
	return e.Has(x.Keyword) || slices.ContainsFunc(x.Aliases, e.Has)
}

// offeredBy reports whether e offers x, and what x needs.
func (x *Extension) offeredBy(e EHLO) bool {
	return x.namedBy(e) && (x.Needs == "" || e.Has(x.Needs))
}

// Offer composes what a door advertises. own has our host and the hop-by-hop
// keywords configured for the door; next is what the next hop offers, and zero
// where that is not known.
//
// The result has, in this order: the hop-by-hop keywords of own as given; then
// the end-to-end keywords that next offers and the table knows, with next's
// arguments, in table order. Masked and unknown keywords never come through,
// from either side.
//
// Two hop-by-hop keywords hold limits that bind us as much as the hop. SIZE is
// the smaller limit of both, where 0 is none; a hop without SIZE leaves ours as
// it is, and where only the hop has it, it is the hop's. What we add to a message is for the
// caller to take off next's limit first. LIMITS is the smaller of both for each
// item: https://www.rfc-editor.org/rfc/rfc9422#section-4
func Offer(own, next EHLO) EHLO {
	out := EHLO{host: own.host, greeting: own.greeting}
	out.keywords = make([]Param, 0, len(own.keywords)+len(next.keywords))
	for _, p := range own.keywords {
		if x := extensionNamed(p.Name); x != nil && x.Scope == HopByHop {
			out.add(p)
		}
	}
	if limit, offered := next.Size(); offered {
		if ours, _ := own.Size(); !own.Has("SIZE") || limit != 0 && (ours == 0 || limit < ours) {
			out = out.With(sizeParam(limit))
		}
	}
	ours, _ := own.Get("LIMITS")
	theirs, _ := next.Get("LIMITS")
	if value := mergeLimits(ours, theirs); value != "" {
		out = out.With(Param{Name: "LIMITS", Value: value})
	} else {
		out = out.Without("LIMITS")
	}
	for i := range extensions {
		if x := &extensions[i]; x.Scope == EndToEnd && x.offeredBy(next) {
			value, _ := next.Get(x.Keyword)
			out.add(Param{Name: x.Keyword, Value: value})
		}
	}
	return out
}

// mergeLimits returns the arguments of LIMITS that honour both sides. Items
// that are malformed or not registered bind nobody and are left out.
//
// https://www.rfc-editor.org/rfc/rfc9422#section-4
func mergeLimits(own, next string) string {
	var b []byte
	for _, name := range [...]string{"MAILMAX", "RCPTMAX", "RCPTDOMAINMAX"} {
		n, m := limitItem(own, name), limitItem(next, name)
		if n == 0 || m != 0 && m < n {
			n = m
		}
		if n != 0 {
			b = append(b, name...)
			b = append(b, '=')
			b = strconv.AppendInt(b, n, 10)
			b = append(b, ' ')
		}
	}
	return strings.TrimSuffix(string(b), " ")
}

// limitItem returns the number of one item, or 0: "0 not allowed, six-digit
// maximum".
func limitItem(value, name string) int64 {
	for item := range strings.FieldsSeq(value) {
		key, text, _ := strings.Cut(item, "=")
		if n, ok := parseSize(text); ok && len(text) <= 6 && foldEqual(key, name) {
			return n
		}
	}
	return 0
}

// Licensed reports whether a MAIL or RCPT uses only what we offered: parameters
// of extensions in offer, with the values that they must have, and characters
// outside ASCII only with SMTPUTF8. If not, the Reply is the refusal: 555 5.5.4
// for a parameter that was not offered, 501 5.5.4 for a bad value, 550 or 553
// 5.6.7 for an address. Other verbs have nothing to license.
//
// SIZE, BODY=7BIT and BODY=8BITMIME are tolerated without an offer, since old
// MTAs send them after HELO too; [Adapt] leaves them out where need be.
//
// A RCPT is looked at alone: that UTF-8 in it needs the SMTPUTF8 parameter of
// the MAIL before it is for the caller to see.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.11
func Licensed(offer EHLO, c Command) (Reply, bool) {
	if c.Verb != VerbMail && c.Verb != VerbRcpt {
		return Reply{}, true
	}
	for _, p := range c.Params {
		if r, ok := licensedParam(offer, c.Verb, p); !ok {
			return r, false
		}
	}
	if extensionNamed("SMTPUTF8").offeredBy(offer) && (c.Verb == VerbRcpt || indexParam(c.Params, "SMTPUTF8") >= 0) {
		return Reply{}, true
	}
	if c.Path.NeedsUTF8() {
		return refuseUTF8(c.Verb, "the address needs SMTPUTF8"), false
	}
	for _, p := range c.Params {
		if !asciiOnly(p.Value) {
			return NewReply(501, "5.5.4", string(c.Verb)+": parameter "+clip(p.Name)+" needs SMTPUTF8"), false
		}
	}
	return Reply{}, true
}

// licensedParam looks for an offered row that takes p. BODY has two.
func licensedParam(offer EHLO, v Verb, p Param) (Reply, bool) {
	var bad error // why offered rows do not take it
	for i := range extensions {
		x := &extensions[i]
		if !x.licenses(v, p.Name) {
			continue
		}
		err := x.check(p)
		switch offered := x.tolerated || x.offeredBy(offer); {
		case offered && err == nil:
			return Reply{}, true
		case offered:
			bad = err
		case err == nil: // the value of an extension that is not offered
			return refuseParam(555, v, p, "is not offered"), false
		}
	}
	if bad != nil {
		return refuseParam(501, v, p, bad.Error()), false
	}
	return refuseParam(555, v, p, "is not offered"), false
}

func refuseParam(code int, v Verb, p Param, why string) Reply {
	return NewReply(code, "5.5.4", string(v)+": parameter "+clip(p.Name)+" "+why)
}

// refuseUTF8 refuses an address outside ASCII.
//
// "When messages are rejected because the RCPT command requires an ASCII
// address, the reply-code 553 is returned [...] because the MAIL command
// requires an ASCII address, the reply-code 550 is returned":
// https://www.rfc-editor.org/rfc/rfc6531#section-3.5
func refuseUTF8(v Verb, why string) Reply {
	code := 550
	if v == VerbRcpt {
		code = 553
	}
	return NewReply(code, "5.6.7", string(v)+": "+why)
}

// Adapt fits a MAIL or RCPT to a hop that offers next, and leaves other
// commands alone. Parameters of extensions that the hop lacks are left out where
// the message stays the same without them: SIZE, BODY=7BIT, BODY=8BITMIME, RET,
// ENVID, NOTIFY, ORCPT, AUTH, MT-PRIORITY; and PRDR always. Else ok is false
// and the Reply is the refusal: 550 5.6.7 (553 in RCPT) for SMTPUTF8 and for an
// address that needs it, 554 5.6.3 for BODY=BINARYMIME, 550 5.7.30 for
// REQUIRETLS, 555 5.5.4 for all else.
//
// When BODY=8BITMIME was left out, the caller must see that the text has only 7
// bit octets, and must not send it otherwise:
// https://www.rfc-editor.org/rfc/rfc6152#section-3
//
// c itself is not changed.
func Adapt(c Command, next EHLO) (adapted Command, refusal Reply, ok bool) {
	if c.Verb != VerbMail && c.Verb != VerbRcpt {
		return c, Reply{}, true
	}
	utf8 := extensionNamed("SMTPUTF8").offeredBy(next)
	if c.Path.NeedsUTF8() && !utf8 {
		return c, refuseUTF8(c.Verb, "the next server does not offer SMTPUTF8"), false
	}
	var drop []string
	for _, p := range c.Params {
		x := governing(c.Verb, p)
		switch {
		case x == nil:
			return c, refuseParam(555, c.Verb, p, "is not known"), false
		case x.ours:
			drop = append(drop, p.Name)
		case x.offeredBy(next) && (utf8 || asciiOnly(p.Value)):
		case x.offeredBy(next):
			return c, refuseUTF8(c.Verb, "the next server does not offer SMTPUTF8"), false
		case x.drop:
			drop = append(drop, p.Name)
		case x.code != 0:
			return c, NewReply(x.code, x.enhanced, string(c.Verb)+": the next server does not offer "+x.Keyword), false
		default:
			return c, refuseParam(555, c.Verb, p, "is not offered by the next server"), false
		}
	}
	if drop != nil {
		c.Params = c.Params.Without(drop...)
	}
	return c, Reply{}, true
}

// governing returns the row that a parameter with its value belongs to, or nil
// for a parameter of no row. A value that no row takes goes by its name.
func governing(v Verb, p Param) *Extension {
	var byName *Extension
	for i := range extensions {
		x := &extensions[i]
		if !x.licenses(v, p.Name) {
			continue
		}
		if x.check(p) == nil {
			return x
		}
		if byName == nil {
			byName = x
		}
	}
	return byName
}
