package proxy

import (
	"strings"

	"go.uber.org/zap"

	"slipstream/auth"
)

// maxLoggedResults bounds how many results of one method a log line has.
const maxLoggedResults = 4

// verdict is what the log says about who a message is from.
func (r *record) verdict() []zap.Field {
	if r.judged == nil {
		return nil
	}
	v := r.judged.DMARC
	fields := []zap.Field{
		zap.String("auth", summed(r.judged.Results)),
		zap.String("dmarc", string(v.Status)),
		zap.String("dmarc_domain", v.Domain),
		zap.String("dmarc_policy", string(v.Policy)),
		zap.String("auth_wait", seconds(r.judging)),
	}
	if v.Fault != "" {
		fields = append(fields, zap.String("dmarc_fault", string(v.Fault)))
	}
	if v.Reason != "" && v.Reason != string(v.Fault) {
		fields = append(fields, zap.String("dmarc_reason", v.Reason))
	}
	action, would := r.judged.Decision.Action, r.judged.Would
	if action != auth.ActionAccept {
		fields = append(fields, zap.String("auth_action", string(action)))
	}
	if would.Action != action {
		fields = append(fields, zap.String("auth_would", string(would.Action)))
	}
	if would.Exempt != "" {
		fields = append(fields, zap.String("auth_exempt", would.Exempt))
	}
	if would.Action != auth.ActionAccept || would.Exempt != "" {
		// The text may be gone: this is what there is to find out why, and what to exempt.
		fields = append(fields, zap.String("message_id", r.judged.MessageID), zap.String("auth_results", unfolded(r.judged.Results)))
	}
	if r.judged.Late {
		fields = append(fields, zap.Bool("auth_late", true))
	}
	return fields
}

// summed is what the methods found, in a few words: "iprev=pass spf=pass dkim=pass,fail arc=none dmarc=pass".
func summed(r auth.Results) string {
	var b strings.Builder
	method, n := "", 0
	for _, result := range r.List {
		switch {
		case result.Method != method:
			if method, n = result.Method, 1; b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(method + "=" + result.Value)
		case n < maxLoggedResults:
			n++
			b.WriteString("," + result.Value)
		}
	}
	return b.String()
}

// unfolded is the field that a message got, in one line.
func unfolded(r auth.Results) string {
	return strings.NewReplacer("\r\n", "", "\t", " ").Replace(string(r.Payload()))
}
