package badgerkv

import (
	"strings"
	"testing"
)

// TestRoomSaid: that nothing is kept any more is a warning, that something is again is none; sizes are for people.
func TestRoomSaid(t *testing.T) {
	var said []string
	k := &KV{o: Options{Log: func(level, msg string) { said = append(said, level+": "+msg) }}}
	k.tell(nil, noRoom(3<<20, Reserve))
	k.tell(noRoom(3<<20, Reserve), nil)
	want := "warn: nothing more is kept for now: badgerkv: no room on the disk: 3 MiB are free, 128 must be|" +
		"info: there is room on the disk again"
	if got := strings.Join(said, "|"); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
