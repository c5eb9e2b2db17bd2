package bench

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"slipstream/bench/mta"
)

// gatherFacts says under which circumstances a run takes place.
func gatherFacts(o *Options) Facts {
	f := Facts{
		Begun:   time.Now(),
		Version: o.Version,
		Go:      runtime.Version(),
		OS:      runtime.GOOS, Arch: runtime.GOARCH,
		System: fmt.Sprintf("%s, %d CPUs", system(), runtime.NumCPU()),
		Tickets: "Slipstream issues them and keeps sessions, in memory, as its defaults are; for a first contact it begins with none; " +
			"real servers as their packages leave it; reference servers issue them, and only the reference clients \"chunking\" and " +
			"\"early\" keep them, in the state \"resumed\"",
	}
	switch o.Ground {
	case WAN:
		f.Ground = "the kernel's own TCP between two network namespaces, joined by a link that delays each packet"
		f.Link = linkFacts(o)
		f.Peers = slices.DeleteFunc(mta.Versions(o.Peers), func(v string) bool {
			return !strings.HasPrefix(v, "exim") && !strings.HasPrefix(v, "postfix")
		})
		f.Sysctls = sysctlFacts()
	case Sim:
		f.Ground = "simulated connections (netsim): one write is one segment; no slow start, no loss, no processor time on the way"
		f.Link = "no limit to the rate, no loss"
		f.warn("on the simulated ground reference peers stand in for all real servers")
	}
	return f
}

// linkFacts describes the link but for its delay, which is each cell's own.
func linkFacts(o *Options) string {
	mtu := o.MTU
	if mtu == 0 {
		mtu = 1500
	}
	_, rest, _ := strings.Cut(o.Link.String(), ", ") // behind the round trip
	return strings.TrimPrefix(fmt.Sprintf("%s, MTU %d", rest, mtu), ", ")
}

// sysctlFacts are the settings of TCP that differ from the kernel's own, in both namespaces.
func sysctlFacts() []string {
	var list []string
	for name, value := range baseSysctls(false) {
		list = append(list, name+"="+value)
	}
	for name, value := range baseSysctls(true) {
		list = append(list, name+"="+value+" (scenarios with +tfo)")
	}
	slices.Sort(list)
	return list
}

func (f *Facts) warn(text string) {
	text = strings.TrimSpace(text)
	if text != "" && !slices.Contains(f.Warnings, text) {
		f.Warnings = append(f.Warnings, text)
	}
}
