package route

import "fmt"

// Level is how much protection a hop must have. Greater is stricter.
type Level int

const (
	Clear         Level = iota // "none": no TLS, even where it is offered
	Opportunistic              // "may": TLS where it is offered, with any certificate; else clear
	Encrypted                  // "encrypt": TLS or nothing, with any certificate
	Verified                   // "verify": TLS with a certificate that is valid for Policy.ServerName, or nothing
)

// String is the word for l in configuration and logs.
func (l Level) String() string {
	switch l {
	case Clear:
		return "none"
	case Opportunistic:
		return "may"
	case Encrypted:
		return "encrypt"
	case Verified:
		return "verify"
	}
	return fmt.Sprintf("level %d", int(l))
}

// ParseLevel is the inverse of [Level.String].
func ParseLevel(s string) (Level, error) {
	for l := Clear; l <= Verified; l++ {
		if s == l.String() {
			return l, nil
		}
	}
	return 0, fmt.Errorf("TLS level %q is none of none, may, encrypt, verify", s)
}

// MarshalText is [Level.String].
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is [ParseLevel].
func (l *Level) UnmarshalText(text []byte) error {
	v, err := ParseLevel(string(text))
	if err == nil {
		*l = v
	}
	return err
}
