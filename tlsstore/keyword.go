package tlsstore

import "slipstream/smtpwire"

// A keyword in a record begins with a code. Most servers offer the same few, so one octet says most of them whole:
//
//	0          name and value follow
//	1…127      commonKeywords[code-1]
//	128…255    commonNames[code-128], and a value that follows
//
// The tables are part of the record format: they may be added to at the end, and changed otherwise only together with
// recordFormat. An older version takes what it does not know for a damaged record, which is a miss.
const (
	spelledOut = 0
	nameOnly   = 128
)

// commonKeywords are what Exim, Postfix, Sendmail, Exchange, Gmail and others offer as they are installed.
var commonKeywords = [...]smtpwire.Param{
	{Name: "PIPELINING"},
	{Name: "8BITMIME"},
	{Name: "STARTTLS"},
	{Name: "ENHANCEDSTATUSCODES"},
	{Name: "DSN"},
	{Name: "SMTPUTF8"},
	{Name: "CHUNKING"},
	{Name: "BINARYMIME"},
	{Name: "VRFY"},
	{Name: "ETRN"},
	{Name: "EXPN"},
	{Name: "HELP"},
	{Name: "PIPECONNECT"},
	{Name: "PIPE_CONNECT"},
	{Name: "X_PIPE_CONNECT"},
	{Name: "PRDR"},
	{Name: "XCLIENT"},
	{Name: "XFORWARD"},
	{Name: "X-EXPS"},
	{Name: "X-ANONYMOUSTLS"},
	{Name: "XRDST"},
	{Name: "X-LINK2STATE"},
	{Name: "XEXCH50"},
	{Name: "XSHADOW"},
	{Name: "TURN"},
	{Name: "ATRN"},
	{Name: "DELIVERBY"},
	{Name: "REQUIRETLS"},
	{Name: "MT-PRIORITY"},
	{Name: "CONPERM"},
	{Name: "BURL"},
	{Name: "BURL", Value: "imap"},
	{Name: "AUTH", Value: "PLAIN LOGIN"},
	{Name: "AUTH", Value: "LOGIN PLAIN"},
	{Name: "AUTH", Value: "PLAIN"},
	{Name: "AUTH", Value: "LOGIN"},
	{Name: "AUTH", Value: "PLAIN LOGIN CRAM-MD5"},
	{Name: "AUTH", Value: "CRAM-MD5 PLAIN LOGIN"},
	{Name: "AUTH", Value: "LOGIN PLAIN CRAM-MD5"},
	{Name: "AUTH", Value: "DIGEST-MD5 CRAM-MD5"},
	{Name: "AUTH", Value: "DIGEST-MD5 CRAM-MD5 PLAIN LOGIN"},
	{Name: "AUTH", Value: "NTLM"},
	{Name: "AUTH", Value: "NTLM LOGIN"},
	{Name: "AUTH", Value: "LOGIN NTLM"},
	{Name: "AUTH", Value: "GSSAPI NTLM"},
	{Name: "AUTH", Value: "GSSAPI NTLM LOGIN"},
	{Name: "SIZE"},
	{Name: "SIZE", Value: "0"},
	{Name: "SIZE", Value: "10240000"},
	{Name: "SIZE", Value: "10485760"},
	{Name: "SIZE", Value: "15728640"},
	{Name: "SIZE", Value: "20480000"},
	{Name: "SIZE", Value: "20971520"},
	{Name: "SIZE", Value: "25600000"},
	{Name: "SIZE", Value: "26214400"},
	{Name: "SIZE", Value: "30720000"},
	{Name: "SIZE", Value: "31457280"},
	{Name: "SIZE", Value: "35651584"},
	{Name: "SIZE", Value: "35882577"},
	{Name: "SIZE", Value: "36700160"},
	{Name: "SIZE", Value: "36909875"},
	{Name: "SIZE", Value: "37748736"},
	{Name: "SIZE", Value: "40960000"},
	{Name: "SIZE", Value: "41943040"},
	{Name: "SIZE", Value: "50000000"},
	{Name: "SIZE", Value: "51200000"},
	{Name: "SIZE", Value: "52428800"},
	{Name: "SIZE", Value: "68157440"},
	{Name: "SIZE", Value: "69730304"},
	{Name: "SIZE", Value: "73400320"},
	{Name: "SIZE", Value: "100000000"},
	{Name: "SIZE", Value: "102400000"},
	{Name: "SIZE", Value: "104857600"},
	{Name: "SIZE", Value: "133169152"},
	{Name: "SIZE", Value: "134217728"},
	{Name: "SIZE", Value: "150000000"},
	{Name: "SIZE", Value: "157286400"},
	{Name: "SIZE", Value: "204800000"},
	{Name: "SIZE", Value: "209715200"},
	{Name: "SIZE", Value: "524288000"},
	{Name: "SIZE", Value: "1073741824"},
}

// commonNames are those of keywords that come with various values.
var commonNames = [...]string{"SIZE", "AUTH", "DELIVERBY", "MT-PRIORITY", "FUTURERELEASE", "XCLIENT", "XFORWARD",
	"HELP", "RRVS"}

// appendKeyword appends a keyword in the shortest way.
func appendKeyword(b []byte, p smtpwire.Param) []byte {
	for i := range commonKeywords {
		if commonKeywords[i] == p {
			return append(b, byte(1+i))
		}
	}
	for i, name := range commonNames {
		if name == p.Name {
			return appendText(append(b, byte(nameOnly+i)), p.Value)
		}
	}
	return appendText(appendText(append(b, spelledOut), p.Name), p.Value)
}

// keyword returns what appendKeyword appended.
func (d *decoder) keyword() smtpwire.Param {
	switch code := int(d.octet()); {
	case d.bad:
	case code == spelledOut:
		return smtpwire.Param{Name: d.text(maxHello), Value: d.text(maxHello)}
	case code <= len(commonKeywords):
		return commonKeywords[code-1]
	case code >= nameOnly && code-nameOnly < len(commonNames):
		return smtpwire.Param{Name: commonNames[code-nameOnly], Value: d.text(maxHello)}
	}
	d.bad = true
	return smtpwire.Param{}
}
