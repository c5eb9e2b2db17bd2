package auth

import (
	"context"
	"strconv"
)

// A Mailer hands a report to an MTA, which delivers it. It is safe for concurrent use.
type Mailer interface {
	// Send hands over one message for one recipient. from and to are mailboxes without angle brackets; from is empty
	// for the null path. message is a whole message with CRLF at the end of its lines; it is not kept.
	//
	// Nil means that the MTA took it. An error says what the MTA said; where that will not change, [errors.As] finds a
	// [*Refusal] in it. With every other error it may help to try again, and the MTA may have the message all the same.
	Send(ctx context.Context, from, to string, message []byte) error
}

// A Refusal is an MTA's final no: a reply of class 5. Without a code it says why no MTA was asked: nobody takes such a
// message.
type Refusal struct {
	Code int
	Text string // of the reply, behind its code: words of the MTA's, in one line
}

func (r *Refusal) Error() string {
	if r.Code == 0 {
		return "refused: " + r.Text
	}
	return "refused: " + strconv.Itoa(r.Code) + " " + r.Text
}
