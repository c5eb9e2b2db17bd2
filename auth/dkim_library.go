package auth

import (
	"io"
	"net"
	"slices"
	"strings"

	"github.com/emersion/go-msgauth/dkim"

	"slipstream/auth/arc"
)

// maxBlank is how much of nothing but white space and ends of lines may stand in one place of a body. The library
// keeps such a stretch in memory for each signature, since at the end of a body it does not count.
const maxBlank = 64 << 10

// verifyByLibrary has go-msgauth verify signatures that are open and have their keys. Everything that it could stumble
// over was decided before, and it is handed:
//
//   - the fields that these signatures choose from, and no others: what it does not see cannot slow it down;
//   - of the signatures just these, unless one of them signs other signatures;
//   - key records that are written anew from the key itself;
//   - a body that always ends in an orderly way: a reader that fails would leave its goroutines behind.
func verifyByLibrary(headers []arc.Header, list []*dkimSignature, body bodySource) {
	records := make(map[string]string, len(list))
	for _, s := range list {
		records[s.asks] = keyRecord(s.key)
	}
	header, which := pickForLibrary(headers, list)
	feed := &libraryFeed{rest: header, body: body}
	found, _ := dkim.VerifyWithOptions(feed, &dkim.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) {
			if record := records[name]; record != "" {
				return []string{record}, nil
			}
			return nil, &net.DNSError{Err: "not asked for", Name: name, IsNotFound: true}
		},
		MaxVerifications: len(which), // beyond, it says that there are more, which we know
	})
	for i, s := range which {
		switch {
		case s == nil:
		case feed.blank:
			s.decide("policy", "too many empty lines in one place")
		case body.dropped(), i >= len(found), found[i].Domain != s.parsed.Domain:
			s.decide("permerror", "cannot be verified")
		default:
			s.decideByLibrary(found[i].Err)
		}
	}
}

func (s *dkimSignature) decideByLibrary(err error) {
	switch {
	case err == nil:
		s.decide("pass", "")
	case strings.Contains(err.Error(), "body hash did not verify"):
		s.decide("fail", arc.ErrBodyHash.Error())
	case strings.Contains(err.Error(), "signature did not verify"):
		s.decide("fail", arc.ErrMismatch.Error())
	case strings.Contains(err.Error(), "signature has expired"):
		s.decide("permerror", "the signature has expired")
	default:
		s.decide("permerror", "cannot be verified")
	}
}

// keyRecord writes a key down in the plainest way. Its text was decoded before, in the same way that the library does.
func keyRecord(k *arc.Key) string {
	text, _ := k.Tags.Get("p")
	kind := "rsa"
	if k.Algorithm() == arc.Ed25519SHA256 {
		kind = "ed25519"
	}
	return "v=DKIM1; k=" + kind + "; p=" + withoutBlanks(text)
}

// pickForLibrary writes the header that the library sees. which names the signatures in it as far as the last one of
// list, in order; nil stands for one that is there because it may be signed itself.
func pickForLibrary(headers []arc.Header, list []*dkimSignature) (header []byte, which []*dkimSignature) {
	names := make(map[string]bool)
	for _, s := range list {
		for _, name := range s.parsed.Headers {
			names[strings.ToLower(name)] = true
		}
	}
	left := len(list)
	for i, h := range headers {
		name := strings.ToLower(h.Name)
		if name == strings.ToLower(dkimField) {
			at := slices.IndexFunc(list, func(s *dkimSignature) bool { return s.at == i })
			if at < 0 && !names[name] {
				continue
			}
			if at >= 0 {
				which, left = append(which, list[at]), left-1
			} else if left > 0 {
				which = append(which, nil)
			}
		} else if !names[name] {
			continue
		}
		header = append(header, h.Raw...)
	}
	return append(header, "\r\n"...), which
}

// libraryFeed is the message as the library reads it: a header, then the body as it arrives. Ends of lines at the end
// of what is there are held back until text follows, so that the library gets a run of them at once.
type libraryFeed struct {
	rest  []byte // to be read before anything else
	body  bodySource
	held  []byte // ends of lines
	space int    // octets of white space and ends of lines at the end of what was read, held ones included
	blank bool   // too many of them: the body ended there, as far as the library is concerned
	ended bool
}

func (f *libraryFeed) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.ended {
			return 0, io.EOF
		}
		f.rest = f.more()
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// WriteTo is Read for those who take what there is.
func (f *libraryFeed) WriteTo(w io.Writer) (n int64, err error) {
	for {
		if len(f.rest) > 0 {
			m, err := w.Write(f.rest)
			if n += int64(m); err != nil {
				return n, err
			}
		}
		if f.rest = nil; f.ended {
			return n, nil
		}
		f.rest = f.more()
	}
}

// more returns the next part of the body; at the end it sets ended.
func (f *libraryFeed) more() []byte {
	chunk := f.body.next()
	if chunk == nil {
		f.ended = true
		return f.held
	}
	text := lastIndexNot(chunk, " \t\r\n") + 1
	if text == 0 {
		f.space += len(chunk)
	} else {
		lead := 0
		for strings.IndexByte(" \t\r\n", chunk[lead]) >= 0 {
			lead++
		}
		if f.space+lead <= maxBlank { // else what is counted stays beyond the limit
			f.space = len(chunk) - text
		} else {
			f.space += lead
		}
	}
	if f.space > maxBlank {
		f.blank, f.ended, f.held = true, true, nil
		return nil
	}
	lines := lastIndexNot(chunk, "\r\n") + 1
	if lines == 0 {
		f.held = append(f.held, chunk...)
		return nil
	}
	if len(f.held) > 0 {
		out := append(f.held, chunk[:lines]...)
		f.held = append([]byte(nil), chunk[lines:]...)
		return out
	}
	f.held = append(f.held, chunk[lines:]...)
	return chunk[:lines]
}

// lastIndexNot is the place of the last octet of p that is none of set, or -1.
func lastIndexNot(p []byte, set string) int {
	i := len(p) - 1
	for i >= 0 && strings.IndexByte(set, p[i]) >= 0 {
		i--
	}
	return i
}
