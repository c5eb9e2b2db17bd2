package refpeer

import (
	"context"
	"net"
	"testing"
)

func TestSourceAndSink(t *testing.T) {
	server, client := tlsConfigs(t)
	for style := OldLockStep; style < Early; style++ {
		sink := Sink("mx.example")
		sink.TLS = server
		sink.FinalReplies = map[string]string{"full@mx.example": "452 4.2.2 full"}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		sink.Start(ln)
		src := &Source{Addr: ln.Addr().String(), Sessions: 4, Messages: 50, PerConn: 10, Size: 4096, Style: style, Prefix: "run-"}
		if style == Chunking {
			src.TLS = client
		}
		stats := src.Run(t.Context())
		must(t, stats.Err)
		ids := sink.IDs()
		if len(stats.Acknowledged) != 50 || len(ids) != 50 || stats.Connections > 8 || len(stats.Latencies) != 50 {
			t.Errorf("%v: %d acknowledged, %d delivered, %d connections", style, len(stats.Acknowledged), len(ids), stats.Connections)
		}
		for _, id := range stats.Acknowledged {
			if ids[id] != 1 {
				t.Errorf("%s delivered %d times", id, ids[id])
			}
		}
		if m := sink.Messages(); m[0].Body != nil || m[0].Size < 4096 || sink.Accepted() != stats.Connections {
			t.Errorf("%+v", m[0])
		}
		src.To, src.Messages = "full@mx.example", 3
		if stats = src.Run(t.Context()); len(stats.Refused) != 3 {
			t.Errorf("%+v", stats)
		}
		sink.Close()
		if stats = src.Run(t.Context()); len(stats.Unsure) != 3 || stats.Err == nil {
			t.Errorf("%+v", stats)
		}
	}
}

func TestSourceStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	sink := Sink("")
	sink.Behave = func(ev Event) Action {
		if ev.Kind == EndOfData {
			cancel()
			return Action{Stall: true}
		}
		return Action{}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	sink.Start(ln)
	defer sink.Close()
	stats := (&Source{Addr: ln.Addr().String(), Messages: 100, Style: Chunking}).Run(ctx)
	if len(stats.Acknowledged) != 0 || stats.Err == nil {
		t.Errorf("%+v", stats)
	}
}

func BenchmarkSourceAndSink(b *testing.B) {
	sink := Sink("")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	sink.Start(ln)
	defer sink.Close()
	src := &Source{Addr: ln.Addr().String(), Sessions: 8, Messages: b.N, PerConn: 100, Size: 4096, Style: Chunking}
	b.ResetTimer()
	if stats := src.Run(b.Context()); stats.Err != nil {
		b.Fatal(stats.Err)
	}
}
