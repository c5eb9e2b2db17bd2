package failure

import (
	"net/netip"
	"time"

	"slipstream/auth"
	"slipstream/auth/arc"
)

// An incident is all that a report tells. It shares no memory with the message.
type incident struct {
	kind  Kind
	count int // like failures that it stands for

	author       string // domains
	policyDomain string
	to           []auth.ReportURI

	results   []byte // the Authentication-Results field; nil: it cannot be written
	alignment string // the value of Identity-Alignment
	delivery  string // the value of Delivery-Result

	id       string
	mailFrom string
	client   netip.Addr
	port     uint16
	received time.Time

	dkim      auth.DKIMResult // the signature that failed; its Domain is empty where none did
	spfDomain string          // whose record said no; empty where none did

	header excerpt
}

func newIncident(r *auth.Report, m Message, kind Kind, fields []arc.Header, most int) *incident {
	in := &incident{
		kind: kind, author: r.DMARC.Domain, policyDomain: r.DMARC.PolicyDomain, to: r.DMARC.Record.RUF,
		results: r.Results.Field(), alignment: identityAlignment(r), delivery: deliveryResult(r, m.Taken),
		id: m.ID, mailFrom: r.Envelope.MailFrom, client: r.Envelope.Client.Unmap().WithZone(""), port: m.Port,
		received: m.Received, header: newExcerpt(fields, most),
	}
	if kind != KindSPF {
		in.dkim, _ = failedSignature(r)
	}
	if (kind == KindDMARC || kind == KindSPF) && spfSaidNo(r) {
		in.spfDomain = r.SPF.Domain
	}
	return in
}

// spfSaidNo tells whether there is a record without a pass in it for this client.
func spfSaidNo(r *auth.Report) bool {
	return failedSPF(r) || r.SPF.Value == auth.ResultNeutral && r.SPF.Domain != ""
}

// identityAlignment lists the methods that gave no aligned result:
// https://www.rfc-editor.org/rfc/rfc9991#section-4
func identityAlignment(r *auth.Report) string {
	switch spf, dkim := !r.DMARC.SPFAligned, !r.DMARC.DKIMAligned; {
	case spf && dkim:
		return "dkim, spf"
	case dkim:
		return "dkim"
	case spf:
		return "spf"
	}
	return "none"
}

// deliveryResult says what became of the message, as far as is known here: the MTA behind us may do more. The words
// are those of https://www.rfc-editor.org/rfc/rfc6591#section-3.2.2
func deliveryResult(r *auth.Report, taken bool) string {
	switch {
	case r.Decision.Action == auth.ActionReject:
		return "reject"
	case taken && r.Decision.Action == auth.ActionQuarantine:
		return "policy"
	case taken:
		return "delivered"
	}
	return "other"
}
