package smtpwire

import (
	"strings"
	"time"
)

// A valueError says what the value of a parameter must be.
type valueError string

func (e valueError) Error() string { return string(e) }

// size-value ::= 1*20DIGIT
//
// https://www.rfc-editor.org/rfc/rfc1870#section-3
func checkSize(_, value string) error {
	if _, ok := parseSize(value); !ok || len(value) > 20 {
		return valueError("must be a number of 1 to 20 digits")
	}
	return nil
}

// https://www.rfc-editor.org/rfc/rfc6152#section-2
func checkBody(_, value string) error {
	if !foldEqual(value, "7BIT") && !foldEqual(value, "8BITMIME") {
		return valueError("must be 7BIT or 8BITMIME")
	}
	return nil
}

// https://www.rfc-editor.org/rfc/rfc3030#section-3
func checkBinary(_, value string) error {
	if !foldEqual(value, "BINARYMIME") {
		return valueError("must be BINARYMIME")
	}
	return nil
}

func checkNoValue(_, value string) error {
	if value != "" {
		return valueError("must have no value")
	}
	return nil
}

// https://www.rfc-editor.org/rfc/rfc3461#section-4
func checkDSN(name, value string) error {
	switch {
	case foldEqual(name, "RET"):
		if !foldEqual(value, "FULL") && !foldEqual(value, "HDRS") {
			return valueError("must be FULL or HDRS")
		}
	case foldEqual(name, "ENVID"):
		if !isXtext(value) || len(value) > 100 {
			return valueError("must be xtext of 1 to 100 octets")
		}
	case foldEqual(name, "NOTIFY"):
		if foldEqual(value, "NEVER") {
			return nil
		}
		for word := range strings.SplitSeq(value, ",") {
			if !foldEqual(word, "SUCCESS") && !foldEqual(word, "FAILURE") && !foldEqual(word, "DELAY") {
				return valueError("must be NEVER or a list of SUCCESS, FAILURE, DELAY")
			}
		}
	default: // ORCPT
		kind, address, _ := strings.Cut(value, ";")
		if !isAtom(kind) || !isXtext(address) || len(value) > 500 {
			return valueError("must be an address type, a semicolon and xtext, of 500 octets at most")
		}
	}
	return nil
}

// https://www.rfc-editor.org/rfc/rfc4954#section-5
func checkAuth(_, value string) error {
	if value != "<>" && !isXtext(value) {
		return valueError("must be a mailbox as xtext, or <>")
	}
	return nil
}

// by-value = by-time";"by-mode[by-trace]
//
// https://www.rfc-editor.org/rfc/rfc2852#section-4
func checkBy(_, value string) error {
	text, mode, _ := strings.Cut(value, ";")
	if text != "" && (text[0] == '+' || text[0] == '-') {
		text = text[1:]
	}
	if _, ok := parseSize(text); !ok || len(text) > 9 || !containsFold([]string{"N", "R", "NT", "RT"}, mode) {
		return valueError("must be seconds, a semicolon, N or R, and perhaps T")
	}
	return nil
}

// https://www.rfc-editor.org/rfc/rfc4865
func checkHold(name, value string) error {
	if foldEqual(name, "HOLDFOR") {
		if n, ok := parseSize(value); !ok || n == 0 || len(value) > 9 {
			return valueError("must be 1 to 999999999 seconds")
		}
		return nil
	}
	if _, err := time.Parse("2006-01-02T15:04:05Z", value); err != nil {
		return valueError("must be a date and time as 2006-01-02T15:04:05Z")
	}
	return nil
}

// priority-value = (["-"] NZDIGIT) / "0"
//
// https://www.rfc-editor.org/rfc/rfc6710
func checkPriority(_, value string) error {
	digit := strings.TrimPrefix(value, "-")
	if len(digit) != 1 || digit[0] < '0' || digit[0] > '9' || value == "-0" {
		return valueError("must be a number from -9 to 9")
	}
	return nil
}

// https://www.rfc-editor.org/rfc/rfc7293
func checkRRVS(_, value string) error {
	date, action, found := strings.Cut(value, ";")
	if _, err := time.Parse(time.RFC3339, date); err != nil || found && !foldEqual(action, "C") && !foldEqual(action, "R") {
		return valueError("must be a date and time as 2006-01-02T15:04:05Z, and perhaps ;C or ;R")
	}
	return nil
}

// isXtext reports whether s is non-empty xtext of printable characters and white
// space. A line end in disguise would become one in the notification that the
// next server writes. Octets above ASCII are let through: ORCPT may hold them
// with SMTPUTF8, which Licensed looks at.
//
//	xtext = *( xchar / hexchar )
//	hexchar = ASCII "+" immediately followed by two upper case
//	          hexadecimal digits
//
// https://www.rfc-editor.org/rfc/rfc3461#section-4
// https://www.rfc-editor.org/rfc/rfc6533#section-3
func isXtext(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			if i+2 >= len(s) || !isUpperHex(s[i+1]) || !isUpperHex(s[i+2]) || isControl(unhex(s[i+1])<<4|unhex(s[i+2])) {
				return false
			}
			i += 2
		case c <= ' ' || c == '=' || c == 0x7f:
			return false
		}
	}
	return s != ""
}

func isUpperHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

// unhex returns the value of an upper case hexadecimal digit.
func unhex(c byte) byte {
	if c >= 'A' {
		return c - 'A' + 10
	}
	return c - '0'
}

// isAtom reports whether s is an Atom in ASCII.
func isAtom(s string) bool {
	for i := range len(s) {
		if !isAtext(s[i]) || s[i] >= 0x80 {
			return false
		}
	}
	return s != ""
}
