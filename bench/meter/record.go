package meter

import (
	"cmp"
	"slices"
)

// Types of TLS records, https://www.rfc-editor.org/rfc/rfc8446#section-5.1.
const (
	recordChange    = 20
	recordAlert     = 21
	recordHandshake = 22
	recordData      = 23
)

const (
	recordHeader = 5
	// maxRecord is how long a record may be, its header apart: https://www.rfc-editor.org/rfc/rfc5246#section-6.2.3
	maxRecord = 1<<14 + 2048
	// alert13 is the length of a record of TLS 1.3 with an alert: two octets, the type, and what authenticates them.
	// Nothing else is as short but a line of two octets, which is no SMTP.
	alert13 = 2 + 1 + 16
)

// secure is what there is of TLS on a connection.
type secure struct {
	hello   serverHello
	seen    []message   // what the server said before it had keys
	whole   bool        // nothing of that was hidden
	changed bool        // the server said that it uses its keys from now on
	records [2][]record // with data of the application, or an alert
}

// record is a TLS record that is all there.
type record struct {
	typ      byte
	pos, end int64
	alert    bool // it holds an alert
}

// length is what the header says: octets behind it.
func (r record) length() int64 { return r.end - r.pos - recordHeader }

// readSecure makes sense of what follows the given positions, as far as that can be done without keys.
func (t *talk) readSecure(fromClient, fromServer int64) {
	t.secure = new(secure)
	records := [2][]record{t.recordsFrom(client, fromClient), t.recordsFrom(server, fromServer)}
	t.readHello(records[server])
	said, _ := t.messages(client, records[client], t.secure.hello.tls13())
	for _, m := range said {
		t.add(client, handshake, m.word(client), m.pos, m.end)
	}
	for _, m := range t.secure.seen {
		t.add(server, handshake, m.word(server), m.pos, m.end)
	}
	if t.secure.hello.tls13() {
		t.read13(records)
	} else {
		t.read12(client, records[client])
		t.read12(server, records[server])
	}
	for side := range t.items { // an alert may stand between parts of a handshake, which came first
		slices.SortStableFunc(t.items[side], func(a, b item) int { return cmp.Compare(a.pos, b.pos) })
	}
}

// recordsFrom returns the records from a position on, up to one that is not all there.
func (t *talk) recordsFrom(side int, pos int64) []record {
	var all []record
	c := t.cursor(side, pos)
	for {
		start := c.pos
		header, ok := c.read(recordHeader)
		if !ok || header[0] < recordChange || header[0] > recordData || header[1] != 3 {
			return all
		}
		n := int64(header[3])<<8 | int64(header[4])
		c.skip(n)
		if n > maxRecord || c.pos != start+recordHeader+n {
			return all
		}
		all = append(all, record{typ: header[0], pos: start, end: c.pos})
	}
}

// read13 tells apart what TLS 1.3 calls data. The first that the client sends is the end of its handshake; the
// server's was sent before it heard that. https://www.rfc-editor.org/rfc/rfc8446#section-2
func (t *talk) read13(records [2][]record) {
	finished := int64(-1)
	for side := range records {
		for _, r := range records[side] {
			if r.typ != recordData && r.typ != recordAlert {
				continue
			}
			switch {
			case side == client && finished < 0 && r.typ == recordData:
				finished = r.end - 1
				t.add(side, handshake, "Finished", r.pos, r.end)
			case side == server && r.typ == recordData && t.sentBefore(r, finished):
				t.add(side, handshake, "Finished", r.pos, r.end)
			default:
				r.alert = r.typ == recordAlert || r.length() == alert13
				t.addRecord(side, r)
			}
		}
	}
}

// sentBefore says whether the server sent a record before an octet of the client had arrived. With pos negative there
// is none.
func (t *talk) sentBefore(r record, pos int64) bool {
	if pos < 0 {
		return true
	}
	arrival := t.streams[client].arrival(pos)
	left, _ := t.streams[server].left(r.pos)
	return arrival.IsZero() || left.Before(arrival)
}

// read12 finds the data and the end of the handshake in the records of TLS 1.2 and before.
func (t *talk) read12(side int, records []record) {
	changed := false
	for _, r := range records {
		switch r.typ {
		case recordChange:
			changed = true
		case recordHandshake:
			if changed {
				t.add(side, handshake, "Finished", r.pos, r.end)
			}
		default:
			r.alert = r.typ == recordAlert
			t.addRecord(side, r)
		}
	}
}

func (t *talk) addRecord(side int, r record) {
	t.secure.records[side] = append(t.secure.records[side], r)
	kind := encrypted
	if r.alert {
		kind = alert
	}
	t.add(side, kind, "alert", r.pos, r.end)
}
