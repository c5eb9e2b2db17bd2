package aggregate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// childEnv has a process of this test do what may end it: "role directory".
const childEnv = "AGGREGATE_CHILD"

func childMain(role string) {
	role, dir, _ := strings.Cut(role, " ")
	roles := map[string]func(dir string) error{"write": childWrite, "send": childSend}
	if err := roles[role](dir); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// startChild starts one; lines are what it says.
func startChild(t testing.TB, role, dir string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+role+" "+dir, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()
		if complaints.Len() > 0 {
			t.Errorf("the child says %s", &complaints)
		}
	})
	return cmd, bufio.NewScanner(out)
}

// childWrite adds records without end, and says how many are on the disk.
func childWrite(dir string) error {
	j, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	for n := 0; ; {
		for range 50 {
			n++
			j.Add(sample("example.com", n))
		}
		if err := j.Flush(context.Background()); err != nil {
			return err
		}
		fmt.Println(n - int(j.Stats().Dropped))
	}
}

// TestKilled: a process that is killed takes no record with it that was said to be on the disk, and leaves a journal
// that the next one goes on with.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	var atLeast int64
	for round := range 8 {
		cmd, lines := startChild(t, "write", dir)
		said := int64(0)
		for n := 0; n < 3+5*round && lines.Scan(); n++ {
			count, err := strconv.ParseInt(lines.Text(), 10, 64)
			if err != nil {
				t.Fatal(lines.Text())
			}
			said = count
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it said before it died
			said, _ = strconv.ParseInt(lines.Text(), 10, 64)
		}
		atLeast += said
		var total, skipped int64
		days, err := Days(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, day := range days {
			_, sum := made(t, dir, day, testConfig())
			total += sum.Messages
			skipped += sum.Skipped
		}
		if total < atLeast || atLeast == 0 {
			t.Fatalf("round %d: %d records, %d were said to be there", round, total, atLeast)
		}
		atLeast = total
		// Every other time also half of the last record is lost.
		if last := days[len(days)-1]; round%2 == 0 {
			info, err := os.Stat(dayFile(dir, last))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(dayFile(dir, last), info.Size()-10); err != nil {
				t.Fatal(err)
			}
			atLeast--
		}
		t.Logf("round %d: %d records, %d octets of a write that was cut short", round, total, skipped)
	}
}

// childSend sends the reports of yesterday; the MTA ends the process when it has taken the third one.
func childSend(dir string) error {
	j, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	s, err := newScheduler(j, SchedulerOptions{
		Config: testConfig(), Destinations: asked{}, Mailer: deadlyMailer{new(int)},
	})
	if err != nil {
		return err
	}
	now := time.Now()
	s.work(context.Background(), DayOf(now)-1, now)
	fmt.Println("done")
	return nil
}

type deadlyMailer struct{ taken *int }

func (m deadlyMailer) Send(_ context.Context, _, to string, message []byte) error {
	_, id, _ := bytes.Cut(message, []byte("Report-ID: <"))
	id, _, _ = bytes.Cut(id, []byte(">"))
	fmt.Printf("%s %s\n", to, id)
	if *m.taken++; *m.taken == 3 {
		process, err := os.FindProcess(os.Getpid())
		if err != nil {
			return err
		}
		return process.Kill()
	}
	return nil
}

// TestKilledWhileSending: of reports that a process has sent which was killed meanwhile only the last comes twice, with
// the same identifier; and none is missing.
func TestKilledWhileSending(t *testing.T) {
	day := DayOf(time.Now()) - 1
	var records []Record
	for n := range 8 {
		records = append(records, sample(fmt.Sprintf("d%d.example", n), n))
	}
	dir := written(t, day, records...)
	got := make(map[string]int)
	var deaths, total int
	for done := false; !done; {
		cmd, lines := startChild(t, "send", dir)
		for lines.Scan() {
			if line := lines.Text(); line == "done" {
				done = true
			} else {
				got[line]++
				total++
			}
		}
		if cmd.Wait() != nil {
			deaths++
		}
		if total > 50 {
			t.Fatalf("it goes on and on: %v", got)
		}
	}
	if len(got) != 8 || total != 8+deaths || deaths < 3 {
		t.Errorf("%d reports came %d times in all, after %d deaths: %v", len(got), total, deaths, got)
	}
}
