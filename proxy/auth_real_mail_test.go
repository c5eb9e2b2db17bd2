package proxy_test

import "strings"

// An chainMail is one message of the table: who sends it, what is done to it on the way, and what is found out.
type chainMail struct {
	name string
	// client is an address of loopback; empty: 127.0.0.11. helo is what it calls itself; empty: mx.good.example.
	client, helo string
	from         string // MAIL FROM; empty: a@good.example; "<>": the null path
	to           string // the receiving domain; empty: tree.test, or six.test where the client has IPv6
	text         string // empty: chainPlain
	kept         string // what is to be left of text; empty: all of it
	swaks        bool   // swaks sends it, since Exim would mend it
	steps        []chainStep

	// want are the results: iprev, spf of MAIL FROM (or of HELO for the null path), spf of HELO, those of dkim from the
	// top down, arc with header.oldest-pass, and dmarc with the policy of the domain where it failed.
	want string
}

// An chainStep is something that is done to a message, by dkimpy or by a careless hand.
type chainStep struct {
	Do       string            `json:"do"` // sign, seal, top, end, replace
	Selector string            `json:"selector,omitempty"`
	Domain   string            `json:"domain,omitempty"`
	Canon    string            `json:"canon,omitempty"`
	Length   bool              `json:"length,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	ID       string            `json:"id,omitempty"`
	Results  string            `json:"results,omitempty"`
	Old      string            `json:"old,omitempty"`
	New      string            `json:"new,omitempty"`
}

func chainSigned(domain, selector string) chainStep {
	return chainStep{Do: "sign", Domain: domain, Selector: selector}
}

// with adds or replaces tags of a signature, given as "x=1"; what is replaced is not checked. An empty one is left out.
func (s chainStep) with(tags ...string) chainStep {
	s.Tags = make(map[string]string)
	for _, tag := range tags {
		name, value, _ := strings.Cut(tag, "=")
		s.Tags[name] = value
	}
	return s
}

func (s chainStep) canon(c string) chainStep { s.Canon = c; return s }

// chainSealed is a seal of list.example, which found these results.
func chainSealed(results string) chainStep {
	return chainStep{Do: "seal", Domain: "list.example", Selector: "rsa", ID: "mx.list.example", Results: results}
}

func chainReplace(from, to string) chainStep {
	return chainStep{Do: "replace", Old: from, New: to}
}
func chainTop(text string) chainStep { return chainStep{Do: "top", New: text} }
func chainEnd(text string) chainStep { return chainStep{Do: "end", New: text} }

func chainSteps(steps ...chainStep) []chainStep { return steps }

const chainPlain = "From: A <a@good.example>\r\nTo: <you@tree.test>\r\nSubject: hello\r\n" +
	"Date: Sun, 22 Nov 2026 06:00:00 +0000\r\nMessage-ID: <1@good.example>\r\n\r\nDear all,\r\n\r\nhello.\r\n"

// chainBy is the plain message of another author.
func chainBy(from string) string {
	return strings.Replace(chainPlain, "A <a@good.example>", from, 1)
}

// chainMails is the table, in parts.
func chainMails() []chainMail {
	var all []chainMail
	for _, part := range [][]chainMail{
		chainMailsSPF(), chainMailsHELO(), chainMailsDKIM(), chainMailsHarm(), chainMailsForm(), chainMailsARC(),
		chainMailsDMARC(), chainMailsWalk(), chainMailsFrom(),
	} {
		all = append(all, part...)
	}
	for i := range all {
		all[i].fill()
	}
	return all
}

func chainMailsSPF() []chainMail {
	by := func(domain, want string) chainMail {
		return chainMail{name: "spf, " + domain, from: "alice@" + domain, text: chainBy("a@nodmarc.example"),
			want: "iprev=pass spf=" + want + " helo=pass dkim=none arc=none dmarc=none"}
	}
	return []chainMail{
		by("include.example", "pass"), by("redirect.example", "pass"), by("soft.example", "softfail"),
		by("neutral.example", "neutral"), by("broken.example", "permerror"), by("twospf.example", "permerror"),
		by("loop.example", "permerror"), by("includesnone.example", "permerror"), by("nospf.example", "none"),
		by("absent.example", "none"), by("void.example", "permerror"), by("many.example", "permerror"),
		by("macro.example", "pass"), by("ptr.example", "pass"), by("mail.example", "pass"), by("long.example", "pass"),
		by("lame.example", "temperror"), by("lameinclude.example", "temperror"), by("other.example", "fail"),
		by("xn--bcher-kva.example", "pass"),
	}
}

func chainMailsHELO() []chainMail {
	return []chainMail{
		{name: "aligned by MAIL FROM alone", want: "iprev=pass spf=pass helo=pass dkim=none arc=none dmarc=pass"},
		{name: "null path, aligned by HELO", client: "127.0.0.12", helo: "helo.example", from: "<>",
			text: chainBy("MAILER-DAEMON@helo.example"),
			want: "iprev=pass spf=pass dkim=none arc=none dmarc=pass"},
		{name: "null path, not aligned", client: "127.0.0.12", helo: "helo.example", from: "<>",
			want: "iprev=pass spf=pass dkim=none arc=none dmarc=fail/reject"},
		{name: "HELO alone does not count", client: "127.0.0.12", helo: "helo.example", from: "a@nospf.example",
			text: chainBy("a@helo.example"),
			want: "iprev=pass spf=none helo=pass dkim=none arc=none dmarc=fail/reject"},
		{name: "HELO of somebody else", client: "127.0.0.14", helo: "helo.example", from: "a@nospf.example",
			want: "iprev=permerror spf=none helo=fail dkim=none arc=none dmarc=fail/reject"},
		{name: "HELO is an address", client: "127.0.0.14", helo: "[127.0.0.14]",
			want: "iprev=permerror spf=fail helo=none dkim=none arc=none dmarc=fail/reject"},
		{name: "HELO is an address, null path", client: "127.0.0.14", helo: "[127.0.0.14]", from: "<>",
			want: "iprev=permerror spf=none dkim=none arc=none dmarc=fail/reject"},
		{name: "the name does not lead back", client: "127.0.0.13", from: "a@other.example", helo: "liar.example",
			want: "iprev=fail spf=pass helo=none dkim=none arc=none dmarc=fail/reject"},
		{name: "IPv6", client: "::1", want: "iprev=pass spf=pass helo=pass dkim=none arc=none dmarc=pass"},
		{name: "IPv6, not allowed", client: "::1", from: "a@other.example", text: chainBy("a@other.example"),
			steps: chainSteps(chainSigned("other.example", "ed")),
			want:  "iprev=pass spf=fail helo=pass dkim=pass arc=none dmarc=pass"},
	}
}

func chainMailsDKIM() []chainMail {
	by := func(name, want string, steps ...chainStep) chainMail {
		return chainMail{name: "dkim, " + name, client: "127.0.0.14", steps: steps,
			want: "iprev=permerror spf=fail helo=fail " + want}
	}
	const passes, fails = "dkim=pass arc=none dmarc=pass", " arc=none dmarc=fail/reject"
	twelve := make([]chainStep, 12)
	for i := range twelve {
		twelve[i] = chainSigned("other.example", "ed")
	}
	twelve[11] = chainSigned("good.example", "rsa") // on top
	return []chainMail{
		by("RSA of 2048 bits", passes, chainSigned("good.example", "rsa")),
		by("RSA of 1024 bits", passes, chainSigned("good.example", "rsa1024")),
		by("RSA of 512 bits", "dkim=policy"+fails, chainSigned("good.example", "rsa512")),
		by("Ed25519", passes, chainSigned("good.example", "ed")),
		by("both", "dkim=pass,pass arc=none dmarc=pass", chainSigned("good.example", "rsa"),
			chainSigned("good.example", "ed")),
		by("one sound, one not", "dkim=pass,fail arc=none dmarc=pass",
			chainSigned("good.example", "rsa").with("bh="+strings.Repeat("A", 43)+"="), chainSigned("good.example", "ed")),
		by("simple/simple", passes, chainSigned("good.example", "rsa").canon("simple/simple")),
		by("relaxed/simple", passes, chainSigned("good.example", "rsa").canon("relaxed/simple")),
		by("simple/relaxed", passes, chainSigned("good.example", "rsa").canon("simple/relaxed")),
		by("a key that is revoked", "dkim=permerror"+fails, chainSigned("good.example", "revoked")),
		by("a key that is not there", "dkim=permerror"+fails, chainSigned("good.example", "absent")),
		by("a key that is nonsense", "dkim=permerror"+fails, chainSigned("good.example", "nonsense")),
		by("a key that nobody can tell", "dkim=temperror arc=none dmarc=temperror", chainSigned("good.example", "lame")),
		by("a stranger's key that nobody can tell", "dkim=temperror"+fails, chainSigned("lame.example", "rsa")),
		by("a key for testing", passes, chainSigned("good.example", "testing")),
		by("a key for the domain itself", passes, chainSigned("good.example", "strict")),
		by("a key for the domain itself, i= below", "dkim=permerror"+fails,
			chainSigned("good.example", "strict").with("i=a@sub.good.example")),
		by("i= below", passes, chainSigned("good.example", "rsa").with("i=a@sub.good.example")),
		by("i= elsewhere", "dkim=permerror"+fails, chainSigned("good.example", "rsa").with("i=a@other.example")),
		by("a key for another hash", "dkim=permerror"+fails, chainSigned("good.example", "sha1")),
		by("expired", "dkim=permerror"+fails, chainSigned("good.example", "rsa").with("t=1000000000", "x=1100000000")),
		by("expires in a hundred years", passes, chainSigned("good.example", "rsa").with("x=4900000000")),
		by("v=2", "dkim=neutral"+fails, chainSigned("good.example", "rsa").with("v=2")),
		by("an unknown algorithm", "dkim=neutral"+fails, chainSigned("good.example", "rsa").with("a=rsa-md5")),
		by("no h=", "dkim=neutral"+fails, chainSigned("good.example", "rsa"), chainReplace("; h=from", "; z=from")),
		by("no author signed", "dkim=permerror"+fails, chainSigned("good.example", "rsa").with("h=subject:to")),
		by("from the subdomain", passes, chainSigned("sub.good.example", "rsa")),
		by("of somebody else", "dkim=pass"+fails, chainSigned("other.example", "rsa")),
		by("twelve", "dkim=pass"+strings.Repeat(",pass", 9)+",policy arc=none dmarc=pass", twelve...),
		by("results signed that are taken out", passes,
			chainTop(chainSignedForgery),
			chainSigned("good.example", "rsa").with("h=from:to:authentication-results")),
		by("a whole l=", passes, chainStep{Do: "sign", Domain: "good.example", Selector: "rsa", Length: true}),
		by("l=, and more behind it", "dkim=policy"+fails,
			chainStep{Do: "sign", Domain: "good.example", Selector: "rsa", Length: true}, chainEnd("buy this\r\n")),
	}
}

func chainMailsHarm() []chainMail {
	by := func(name string, steps ...chainStep) chainMail {
		return chainMail{name: "harm, " + name, client: "127.0.0.14",
			steps: append(chainSteps(chainSigned("good.example", "rsa")), steps...),
			want:  "iprev=permerror spf=fail helo=fail dkim=fail arc=none dmarc=fail/reject"}
	}
	all := []chainMail{
		by("in the body", chainReplace("hello.", "hallo.")),
		by("behind the body", chainEnd("-- \r\nthe list\r\n")),
		by("in the subject", chainReplace("Subject: hello", "Subject: [list] hello")),
		by("a field that is not signed", chainTop("X-Seen: yes\r\n")),
		by("blank lines behind the body", chainEnd("\r\n\r\n")),
		by("another fold", chainReplace("Subject: hello", "Subject:\r\n\thello")),
		by("a second subject", chainTop("Subject: another\r\n")),
	}
	for i := 3; i < 7; i++ {
		all[i].want = strings.Replace(all[i].want, "dkim=fail arc=none dmarc=fail/reject", "dkim=pass arc=none dmarc=pass", 1)
	}
	return all
}

// chainMailsForm are messages that a careless hand would change. Each is signed as it is.
func chainMailsForm() []chainMail {
	const header = "From: A <a@good.example>\r\nTo: <you@tree.test>\r\nDate: Sun, 22 Nov 2026 06:00:00 +0000\r\n"
	signed := chainSteps(chainSigned("good.example", "rsa").canon("simple/simple"), chainSigned("good.example", "ed"))
	by := func(name, text string) chainMail {
		return chainMail{name: "form, " + name, client: "127.0.0.14", text: text, steps: signed,
			want: "iprev=permerror spf=fail helo=fail dkim=pass,pass arc=none dmarc=pass"}
	}
	return []chainMail{
		by("8 bit", header+"Subject: Grüße\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"+
			"Content-Transfer-Encoding: 8bit\r\n\r\nGrüße aus dem Norden, \xff\xfe\r\n"),
		by("1 MB", header+"Subject: big\r\n\r\n"+chainBody(1<<20)),
		by("odd folds", "From:\r\n A\r\n\t<a@good.example>\r\nTo:<you@tree.test>\r\n"+
			"Date: Sun,\r\n\t22 Nov 2026 06:00:00 +0000 \r\nSubject: one  two\t \r\n \tthree\r\n"+
			"X-Long: "+strings.Repeat("x", 900)+"\r\n\r\n \t \r\nx \r\n"),
		by("no body", header+"Subject: nothing\r\n\r\n"),
		by("blank lines at the end", header+"Subject: lines\r\n\r\nx\r\n\r\n\r\n\r\n"),
		by("blank lines alone", header+"Subject: lines\r\n\r\n\r\n\r\n"),
		by("dots", header+"Subject: dots\r\n\r\n.\r\n..\r\n. x\r\n.x\r\n"),
		by("blanks at line ends", header+"Subject: blanks\r\n\r\nx \r\n x\t\r\n \r\n"),
		{name: "form, SMTPUTF8", from: "jürgen@xn--bcher-kva.example",
			text:  strings.Replace(chainPlain, "A <a@good.example>", "Jürgen <jürgen@bücher.example>", 1),
			steps: chainSteps(chainSigned("xn--bcher-kva.example", "rsa")),
			want:  "iprev=pass spf=pass helo=pass dkim=pass arc=none dmarc=pass"},
		by("a message in the message", header+"Subject: fwd\r\nMIME-Version: 1.0\r\nContent-Type: message/rfc822\r\n\r\n"+
			"Authentication-Results: "+chainID+"; spf=pass smtp.mailfrom=a.example\r\nFrom: x@bank.example\r\n\r\nx\r\n"),
	}
}

func chainBody(size int) string {
	return strings.Repeat("a line of the usual length, as they stand in the mail of the world, one by one\r\n", size/80)
}

func chainMailsARC() []chainMail {
	by := func(name, want string, steps ...chainStep) chainMail {
		return chainMail{name: "arc, " + name, client: "127.0.0.13", helo: "liar.example", from: "list@list.example",
			steps: append(chainSteps(chainSigned("good.example", "rsa")), steps...),
			want:  "iprev=fail spf=pass helo=none " + want}
	}
	const first, second = "arc=none; spf=pass smtp.mailfrom=good.example; dkim=pass header.d=good.example",
		"arc=pass; spf=pass smtp.mailfrom=list.example; dkim=fail header.d=good.example"
	footer := []chainStep{chainReplace("Subject: hello", "Subject: [list] hello"), chainEnd("-- \r\nthe list\r\n")}
	return []chainMail{
		by("forwarded", "dkim=pass arc=pass/0 dmarc=pass", chainSealed(first)),
		by("forwarded twice", "dkim=pass arc=pass/0 dmarc=pass", chainSealed(first), chainSealed(second)),
		by("changed, then sealed", "dkim=fail arc=pass/0 dmarc=fail/reject", append(footer, chainSealed(first))...),
		by("sealed, changed, sealed", "dkim=fail arc=pass/2 dmarc=fail/reject",
			append(append(chainSteps(chainSealed(first)), footer...), chainSealed(second))...),
		by("sealed, then changed", "dkim=fail arc=fail dmarc=fail/reject",
			append(chainSteps(chainSealed(first)), footer...)...),
		by("sealed as failed", "dkim=fail arc=fail dmarc=fail/reject",
			append(append(chainSteps(chainSealed(first)), footer...), chainSealed("arc=fail; dkim=fail"))...),
		by("a set that is lost", "dkim=pass arc=fail dmarc=pass", chainSealed(first), chainSealed(second),
			chainReplace("ARC-Seal: i=1;", "X-Seal: i=1;")),
		by("a seal that was altered", "dkim=pass arc=fail dmarc=pass", chainSealed(first),
			chainReplace("cv=none", "cv=pass")),
		by("results that were altered", "dkim=pass arc=fail dmarc=pass", chainSealed(first),
			chainReplace("spf=pass smtp.mailfrom=good.example", "spf=pass smtp.mailfrom=bank.example")),
		by("a seal without a key", "dkim=pass arc=fail dmarc=pass",
			chainStep{Do: "seal", Domain: "list.example", Selector: "absent", ID: "mx.list.example", Results: first}),
	}
}

func chainMailsDMARC() []chainMail {
	by := func(name, author, want string) chainMail {
		return chainMail{name: "dmarc, " + name, client: "127.0.0.14", helo: "[127.0.0.14]", from: "a@nodmarc.example",
			text: chainBy("a@" + author), want: "iprev=permerror spf=fail helo=none dkim=none arc=none dmarc=" + want}
	}
	spf := func(name, author, from, want string) chainMail {
		return chainMail{name: "dmarc, " + name, from: "a@" + from, text: chainBy("a@" + author),
			want: "iprev=pass spf=pass helo=pass dkim=none arc=none dmarc=" + want}
	}
	return []chainMail{
		by("p=reject", "good.example", "fail/reject"),
		by("p=quarantine", "quar.example", "fail/quarantine"),
		by("p=none", "none.example", "fail/none"),
		by("no record", "nodmarc.example", "none"),
		by("no such domain", "absent.example", "none"),
		by("an international domain", "xn--bcher-kva.example", "fail/reject"),
		by("the same in letters", "bücher.example", "fail/reject"),
		by("a subdomain", "sub.good.example", "fail/reject"),
		by("sp=", "x.sp.example", "fail/none"),
		by("np=", "nobody.np.example", "fail/reject"),
		by("t=y", "test.example", "fail/quarantine"),
		by("pct=, rf= and ri=", "pct.example", "fail/reject"),
		by("two records", "two.example", "none"),
		by("a record and another text", "twotxt.example", "fail/reject"),
		by("no usable policy", "nop.example", "permerror"),
		by("no usable policy, but an address", "noprua.example", "fail/none"),
		by("v= is not first", "vlast.example", "none"),
		by("by CNAME", "cname.example", "fail/reject"),
		by("nobody can tell", "lame.example", "temperror"),
		{name: "dmarc, SPF that nobody can tell", from: "a@lameinclude.example", text: chainBy("a@lameinclude.example"),
			want: "iprev=pass spf=temperror helo=pass dkim=none arc=none dmarc=temperror"},
		spf("relaxed", "sub.good.example", "good.example", "pass"),
		spf("relaxed, the other way", "good.example", "sub.good.example", "pass"),
		spf("strict", "strict.example", "strict.example", "pass"),
		spf("strict, a subdomain", "strict.example", "sub.strict.example", "fail/reject"),
		spf("neighbours at a public suffix", "a.co.example", "b.co.example", "fail/reject"),
		spf("below a public suffix", "a.co.example", "a.co.example", "pass"),
	}
}

// chainMailsWalk go twice: to a door that walks the tree, and to one with the list of suffixes, as OpenDMARC has it.
func chainMailsWalk() []chainMail {
	by := func(to, want string) chainMail {
		return chainMail{name: "organizational domain, " + to, to: to, from: "a@next.own.example",
			text: chainBy("a@sub.own.example"), want: "iprev=pass spf=pass helo=pass dkim=none arc=none dmarc=" + want}
	}
	return []chainMail{by("tree.test", "fail/reject"), by("psl.test", "pass")}
}

func chainMailsFrom() []chainMail {
	by := func(name, from, want string) chainMail {
		return chainMail{name: "author, " + name, text: chainBy(from),
			want: "iprev=pass spf=pass helo=pass dkim=none arc=none dmarc=" + want}
	}
	return []chainMail{
		by("quoted name", `"a@bank.example" <a@good.example>`, "pass"),
		by("comments", "(x) a(b)@(c)good.example (d)", "pass"),
		by("two of one domain", "a@good.example, b@good.example", "pass"),
		by("two domains", "a@good.example, b@other.example", "fail/reject"),
		by("an address as a name", "b@other.example <a@good.example>", "fail/reject"),
		by("an address of a host", "<a@[127.0.0.11]>", "permerror"),
		by("nobody in brackets", "\"Scanner\" <>", "permerror"),
		by("a group of nobody", "undisclosed:;", "permerror"),
		by("no domain", "a", "permerror"),
		{name: "author, two fields", text: "From: b@other.example\r\n" + chainPlain,
			want: "iprev=pass spf=pass helo=pass dkim=none arc=none dmarc=fail/reject"},
		{name: "author, none", text: strings.Replace(chainPlain, "From: A", "Sender: A", 1),
			want: "iprev=pass spf=pass helo=pass dkim=none arc=none dmarc=permerror"},
	}
}
