package route

import (
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	tests := []struct {
		in      string
		want    Target
		wantErr string
	}{
		{in: "mx.example:25", want: Target{Host: "mx.example", Port: 25}},
		{in: "MX.Example.:25", want: Target{Host: "mx.example", Port: 25}},
		{in: "my_backend:10025", want: Target{Host: "my_backend", Port: 10025}},
		{in: "bücher.example:25", want: Target{Host: "xn--bcher-kva.example", Port: 25}},
		{in: "127.0.0.1:25", want: Target{Host: "127.0.0.1", Port: 25}},
		{in: "[2001:DB8::1]:25", want: Target{Host: "2001:db8::1", Port: 25}},
		{in: "smtp://mx.example:25", want: Target{Host: "mx.example", Port: 25}},
		{in: "smtps://mx.example:465", want: Target{Host: "mx.example", Port: 465, Implicit: true}},
		{in: "lmtp://mx.example:24", want: Target{Host: "mx.example", Port: 24, LMTP: true}},
		{in: "unix:/run/smtp.sock", want: Target{Unix: "/run/smtp.sock"}},
		{in: "unix:///run//smtp.sock", want: Target{Unix: "/run/smtp.sock"}},
		{in: "lmtp+unix:/run/lmtp", want: Target{Unix: "/run/lmtp", LMTP: true}},
		{in: "lmtp:unix:/run/lmtp", want: Target{Unix: "/run/lmtp", LMTP: true}},

		{in: "", wantErr: `"": not of the form host:port or [address]:port`},
		{in: "mx.example", wantErr: `"mx.example": the port is missing; write mx.example:25`},
		{in: "::1", wantErr: `"::1": the port is missing; write [::1]:25`},
		{in: "[::1]", wantErr: `"[::1]": the port is missing; write [::1]:25`},
		{in: "mx.example:", wantErr: `"mx.example:": port "" is not a number from 1 to 65535`},
		{in: "mx.example:0", wantErr: `"mx.example:0": port "0" is not a number from 1 to 65535`},
		{in: "mx.example:65536", wantErr: `"mx.example:65536": port "65536" is not a number from 1 to 65535`},
		{in: "mx.example:+25", wantErr: `"mx.example:+25": port "+25" is not a number from 1 to 65535`},
		{in: "mx.example:smtp", wantErr: `"mx.example:smtp": port "smtp" is not a number from 1 to 65535`},
		{in: ":25", wantErr: `":25": host "": empty name, or an empty label in it`},
		{in: "[mx.example]:25", wantErr: `"[mx.example]:25": "mx.example" in brackets is not an address`},
		{in: "a b:25", wantErr: `"a b:25": host "a b": only letters, digits, hyphens, underscores and dots may stand in a name`},
		{in: "user@mx.example:25", wantErr: `"user@mx.example:25": host "user@mx.example": only letters, digits, hyphens, underscores and dots may stand in a name`},
		{in: "https://mx.example:25", wantErr: `"https://mx.example:25": scheme "https" is none of smtp, smtps, lmtp, unix, lmtp+unix`},
		{in: "smtps://mx.example:465/path", wantErr: `"smtps://mx.example:465/path": port "465/path" is not a number from 1 to 65535`},
		{in: "unix:", wantErr: `"unix:": the path of a socket must be absolute: unix:/path`},
		{in: "unix:run/x", wantErr: `"unix:run/x": the path of a socket must be absolute: unix:/path`},
		{in: "unix://run/x", wantErr: `"unix://run/x": the path of a socket must be absolute: unix:/path`},
		{in: "unix:/.", wantErr: `"unix:/.": not the path of a socket`},
		{in: "unix:/run/", wantErr: `"unix:/run/": not the path of a socket`},
		{in: "unix:/", wantErr: `"unix:/": not the path of a socket`},
		{in: "unix:/" + strings.Repeat("x", 107), wantErr: `"unix:/` + strings.Repeat("x", 107) + `": the path of a socket has at most 107 octets`},
		{in: strings.Repeat("x", 64) + ":25", wantErr: `"` + strings.Repeat("x", 64) + `:25": host "` + strings.Repeat("x", 64) + `": a label is longer than 63 octets`},
	}
	for _, tt := range tests {
		got, err := ParseTarget(tt.in)
		if err != nil {
			if err.Error() != tt.wantErr {
				t.Errorf("%q\ngot  %v\nwant %s", tt.in, err, tt.wantErr)
			}
			continue
		}
		if tt.wantErr != "" || got != tt.want {
			t.Errorf("%q: got %+v, want %+v %s", tt.in, got, tt.want, tt.wantErr)
		}
	}
}

// FuzzParseTarget: what is accepted can be written and read again.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"a:1", "[::1]:2", "unix:/x", "lmtp:unix:///y", "smtps://bücher:3", "lmtp://a.:4", "smtp://[fe80::1%25]:5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseTarget(s)
		if err != nil {
			return
		}
		again, err := ParseTarget(target.String())
		if err != nil || again != target {
			t.Fatalf("%q: %+v, written %q, read %+v (%v)", s, target, target.String(), again, err)
		}
	})
}
