package aggregate

import (
	"encoding/xml"
	"errors"
	"io"
)

// Namespace is that of the documents. https://www.rfc-editor.org/rfc/rfc9990#section-6.1
const Namespace = "urn:ietf:params:xml:ns:dmarc-2.0"

// The elements of a document, in the order of https://www.rfc-editor.org/rfc/rfc9990#section-3.1.1

type xmlMetadata struct {
	OrgName   string `xml:"org_name"`
	Email     string `xml:"email"`
	Contact   string `xml:"extra_contact_info,omitempty"`
	ReportID  string `xml:"report_id"`
	Begin     int64  `xml:"date_range>begin"`
	End       int64  `xml:"date_range>end"`
	Generator string `xml:"generator"`
}

type xmlPolicy struct {
	Domain  string `xml:"domain"`
	Method  string `xml:"discovery_method"`
	P       string `xml:"p"`
	SP      string `xml:"sp"`
	NP      string `xml:"np"`
	FO      string `xml:"fo,omitempty"`
	ADKIM   string `xml:"adkim"`
	ASPF    string `xml:"aspf"`
	Testing string `xml:"testing"`
}

type xmlRecord struct {
	IP          string      `xml:"row>source_ip"`
	Count       int64       `xml:"row>count"`
	Disposition string      `xml:"row>policy_evaluated>disposition"`
	DKIM        string      `xml:"row>policy_evaluated>dkim"`
	SPF         string      `xml:"row>policy_evaluated>spf"`
	Reasons     []xmlReason `xml:"row>policy_evaluated>reason"`

	HeaderFrom   string  `xml:"identifiers>header_from"`
	EnvelopeFrom *string `xml:"identifiers>envelope_from"`

	Results xmlResults `xml:"auth_results"`
}

type xmlReason struct {
	Type    string `xml:"type"`
	Comment string `xml:"comment,omitempty"`
}

// xmlResults may be empty, but must be there.
type xmlResults struct {
	DKIM []xmlDKIM `xml:"dkim"`
	SPF  *xmlSPF   `xml:"spf"`
}

type xmlDKIM struct {
	Domain   string `xml:"domain"`
	Selector string `xml:"selector"`
	Result   string `xml:"result"`
	Human    string `xml:"human_result,omitempty"`
}

type xmlSPF struct {
	Domain string `xml:"domain"`
	Scope  string `xml:"scope"`
	Result string `xml:"result"`
	Human  string `xml:"human_result,omitempty"`
}

// writeXML writes the document, one row after the other.
func (r *Report) writeXML(w io.Writer, rows []countedRow) error {
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", " ")
	root := xml.StartElement{
		Name: xml.Name{Local: "feedback"},
		Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: Namespace}},
	}
	put := func(name string, v any) error {
		return e.EncodeElement(v, xml.StartElement{Name: xml.Name{Local: name}})
	}
	err := e.EncodeToken(root)
	err = errors.Join(err, put("version", "1.0"), put("report_metadata", r.metadata()),
		put("policy_published", r.policy()))
	for _, row := range rows {
		if err != nil {
			return err
		}
		if parsed, ok := row.parse(); ok {
			err = put("record", parsed.element(row.count))
		}
	}
	return errors.Join(err, e.EncodeToken(root.End()), e.Close())
}

func (r *Report) metadata() xmlMetadata {
	return xmlMetadata{
		OrgName: r.config.OrgName, Email: r.config.Email, Contact: r.config.ContactInfo, ReportID: r.ID,
		Begin: r.Day.Begin().Unix(), End: r.lastSecond(), Generator: r.config.Generator,
	}
}

func (r *Report) policy() xmlPolicy {
	p := r.Published
	testing := "n"
	if p.Testing {
		testing = "y"
	}
	return xmlPolicy{
		Domain: p.Domain, Method: p.Method, P: p.P, SP: p.SP, NP: p.NP, FO: p.FO, ADKIM: p.ADKIM, ASPF: p.ASPF,
		Testing: testing,
	}
}

// element is the row as it stands in the document.
func (r *Row) element(count int64) xmlRecord {
	out := xmlRecord{
		IP: r.IP, Count: count, Disposition: r.Disposition, DKIM: passOrFail(r.DKIM), SPF: passOrFail(r.SPF),
		HeaderFrom: r.HeaderFrom,
	}
	for _, why := range r.Reasons {
		out.Reasons = append(out.Reasons, xmlReason{why.Type, clean(why.Comment, maxComment)})
	}
	switch r.MailFrom {
	case "":
	case nullPath: // "MAY be existing but empty": https://www.rfc-editor.org/rfc/rfc9990#section-3.1.1.10
		out.EnvelopeFrom = new(string)
	default:
		out.EnvelopeFrom = &r.MailFrom
	}
	for _, s := range r.Signatures {
		out.Results.DKIM = append(out.Results.DKIM, xmlDKIM{s.Domain, s.Selector, s.Result, clean(s.Human, maxHuman)})
	}
	if r.SPFDomain != "" {
		out.Results.SPF = &xmlSPF{r.SPFDomain, "mfrom", r.SPFResult, clean(r.SPFHuman, maxHuman)}
	}
	return out
}

func passOrFail(pass bool) string {
	if pass {
		return "pass"
	}
	return "fail"
}
