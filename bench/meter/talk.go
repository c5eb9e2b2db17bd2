package meter

import "sort"

// maxItems is how many items are told of each side of a connection: far more than a bench's connection has. What comes
// behind them is counted in octets.
const maxItems = 1 << 20

// talk is a connection that was read: what each side sent, and what of it could be made sense of.
type talk struct {
	streams [2]stream
	items   [2][]item // in order: they are apart, or share a record
	ends    []ending  // of the messages in clear
	secure  *secure   // nil: no TLS
}

// item is something that one side said.
type item struct {
	kind     kind
	word     string // of a verb, a reply or a part of a handshake
	pos, end int64
}

type kind uint8

const (
	verb      kind = iota
	chunk          // the octets behind BDAT
	text           // the octets behind DATA, and its dot
	reply          // of the server
	handshake      // of TLS
	alert          // of TLS
	encrypted      // records with data
)

// ending is the end of a message in clear, and what answers it.
type ending struct {
	mail  int64 // of the client: where MAIL begins
	text  int64 // of the client: behind the last octet of the message
	reply int64 // of the server: behind the last octet of the final reply; 0: there is none
}

// read makes sense of a connection.
func (c Conn) read() *talk {
	t := &talk{streams: [2]stream{newStream(c.place(client)), newStream(c.place(server))}}
	if b, ok := t.cursor(client, 1).read(1); ok && b[0] == recordHandshake {
		t.readSecure(1, 1)
		return t
	}
	d := dialog{talk: t, client: *t.cursor(client, 1), server: *t.cursor(server, 1)}
	d.read()
	return t
}

func (t *talk) cursor(side int, pos int64) *cursor {
	c := t.streams[side].cursor(pos)
	return &c
}

func (t *talk) add(side int, kind kind, word string, pos, end int64) {
	if end > pos && len(t.items[side]) < maxItems {
		t.items[side] = append(t.items[side], item{kind, word, pos, end})
	}
}

// during returns the items in a part of a stream. Of those that share a record which began before, it is the last.
func (t *talk) during(side int, from, to int64) []item {
	all := t.items[side]
	first := sort.Search(len(all), func(i int) bool { return all[i].pos >= from })
	behind := sort.Search(len(all), func(i int) bool { return all[i].pos >= to })
	if first > 0 && all[first-1].end > from {
		first--
	}
	t.streams[side].steps += behind - first
	return all[first:behind]
}
