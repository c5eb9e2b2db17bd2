package failure

import (
	"bytes"
	"strings"

	"slipstream/auth/arc"
)

// An excerpt is what is told of a message's header.
type excerpt struct {
	text []byte // fields as they came, each with a CRLF at its end
	cut  bool   // there is more
}

// newExcerpt takes whole fields as long as there is room; of the first, what fits. Blind copies concern nobody.
func newExcerpt(fields []arc.Header, most int) excerpt {
	var e excerpt
	for _, f := range fields {
		switch strings.ToLower(f.Name) {
		case "bcc", "resent-bcc":
			continue
		}
		raw := f.Raw
		if len(e.text)+len(raw) > most {
			e.cut = true
			if len(e.text) > 0 {
				break
			}
			raw = raw[:most]
		}
		e.text = append(e.text, raw...)
		if !bytes.HasSuffix(raw, []byte("\r\n")) {
			e.text = append(e.text, "\r\n"...)
		}
		if e.cut {
			break
		}
	}
	return e
}
