package smtpwire

// Verb is the name of an SMTP command, in upper case.
type Verb string

// The verbs that this package knows. A line that begins with any other word is
// refused by [ParseCommand].
const (
	VerbHelo     Verb = "HELO"
	VerbEhlo     Verb = "EHLO"
	VerbLhlo     Verb = "LHLO" // RFC 2033
	VerbMail     Verb = "MAIL"
	VerbRcpt     Verb = "RCPT"
	VerbData     Verb = "DATA"
	VerbBdat     Verb = "BDAT" // RFC 3030
	VerbRset     Verb = "RSET"
	VerbNoop     Verb = "NOOP"
	VerbQuit     Verb = "QUIT"
	VerbVrfy     Verb = "VRFY"
	VerbExpn     Verb = "EXPN"
	VerbHelp     Verb = "HELP"
	VerbStarttls Verb = "STARTTLS" // RFC 3207
	VerbAuth     Verb = "AUTH"     // RFC 4954
	VerbEtrn     Verb = "ETRN"     // RFC 1985
	VerbXclient  Verb = "XCLIENT"  // Postfix, XCLIENT_README
	VerbXforward Verb = "XFORWARD" // Postfix, XFORWARD_README

	// VerbEndOfData is a pseudo command of Pipeline: the message text and its
	// final dot, legal once DATA was answered 354. It is never parsed from a
	// line and has no wire form of its own.
	VerbEndOfData Verb = "."
)

// maxVerb is the length of the longest verb.
const maxVerb = len(VerbStarttls)

// parseVerb returns the verb that the word spells in any case, or "" for a word
// that is none. It does not allocate.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-2.4 (verbs are not case
// sensitive)
func parseVerb(word []byte) Verb {
	var buf [maxVerb]byte
	if len(word) > maxVerb {
		return ""
	}
	for i, c := range word {
		buf[i] = upper(c)
	}
	switch v := Verb(buf[:len(word)]); v {
	case VerbHelo:
		return VerbHelo
	case VerbEhlo:
		return VerbEhlo
	case VerbLhlo:
		return VerbLhlo
	case VerbMail:
		return VerbMail
	case VerbRcpt:
		return VerbRcpt
	case VerbData:
		return VerbData
	case VerbBdat:
		return VerbBdat
	case VerbRset:
		return VerbRset
	case VerbNoop:
		return VerbNoop
	case VerbQuit:
		return VerbQuit
	case VerbVrfy:
		return VerbVrfy
	case VerbExpn:
		return VerbExpn
	case VerbHelp:
		return VerbHelp
	case VerbStarttls:
		return VerbStarttls
	case VerbAuth:
		return VerbAuth
	case VerbEtrn:
		return VerbEtrn
	case VerbXclient:
		return VerbXclient
	case VerbXforward:
		return VerbXforward
	}
	return ""
}

// upper maps an ASCII letter to upper case.
func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - ('a' - 'A')
	}
	return c
}

// foldEqual is strings.EqualFold for ASCII. Unicode folding would take the
// Kelvin sign for a K.
func foldEqual(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if upper(a[i]) != upper(b[i]) {
			return false
		}
	}
	return true
}
