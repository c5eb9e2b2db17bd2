package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/bench/refpeer"
)

// TestMain lets this program stand in for Slipstream, so that one can be had that is in the wrong: started with
// "stand-in CHARACTER", it reads its door and its next hop from the configuration that the package writes.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "stand-in" {
		if err := standIn(os.Args[2], os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// command starts a stand-in of a character.
func command(character string) []string { return []string{os.Args[0], "stand-in", character} }

func standIn(character, config string) error {
	switch character {
	case "broken":
		return errors.New("the door is stuck")
	case "parent":
		return beParent()
	case "mute": // it never listens
		time.Sleep(time.Minute)
	}
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	find := func(re string) string { return regexp.MustCompile(re).FindStringSubmatch(string(text) + re)[1] }
	ln, err := net.Listen("tcp", find(`listen = \["(.*)"\]`))
	if err != nil {
		return err
	}
	hop := find(`(?:relay|backend) = "(.*)"`)
	if character == "honest" {
		return forward(ln, hop)
	}
	server := &refpeer.Server{Keywords: refpeer.Modern(), Record: -1}
	server.Behave = func(ev refpeer.Event) refpeer.Action {
		if ev.Kind != refpeer.EndOfData {
			return refpeer.Action{}
		}
		times := 1
		if ev.Total%10 == 9 {
			times = map[string]int{"losing": 0, "doubling": 2}[character]
		}
		if character == "refusing" || pass(server, ev.Conn, hop, times) != nil {
			return refpeer.Action{Reply: "451 4.3.0 not today\r\n"}
		}
		return refpeer.Action{}
	}
	return server.Serve(context.Background(), ln)
}

// pass sends the message that a connection has under way to the hop, some times.
func pass(server *refpeer.Server, id int, hop string, times int) error {
	all := server.Refused() // it is not decided yet
	i := slices.IndexFunc(all, func(m refpeer.Message) bool { return m.Conn == id })
	conn, err := net.Dial("tcp", hop)
	if err != nil || i < 0 {
		return errors.Join(err, errors.New("no such message"))
	}
	client := &refpeer.Client{Conn: conn, Style: refpeer.Pipelining}
	mail := refpeer.Mail{From: sender, To: []string{recipient}, Body: all[i].Body}
	for range times {
		if _, err := client.Send(context.Background(), mail); err != nil {
			return err
		}
	}
	return client.Quit(context.Background())
}

// forward joins each connection with one to the hop.
func forward(ln net.Listener, hop string) error {
	for {
		near, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer near.Close()
			far, err := net.Dial("tcp", hop)
			if err != nil {
				return
			}
			defer far.Close()
			var wg sync.WaitGroup
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].(*net.TCPConn).CloseWrite()
				})
			}
			wg.Wait()
		}()
	}
}

// beParent starts a child as the package does, tells who it is, and waits to be killed.
func beParent() error {
	p, err := startProcess(command("mute"))
	if err != nil {
		return err
	}
	fmt.Println(p.pid())
	time.Sleep(time.Minute)
	return nil
}
