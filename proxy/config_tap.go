package proxy

import (
	"slices"
	"strings"
)

// tap checks whose messages are copied.
func (v *configCheck) tap() {
	t := v.config.Tap
	if len(t.Doors) > 0 && t.Dir == "" && !v.blamed("tap.dir") {
		v.missing("tap.doors", "is set without tap.dir, so nothing is copied; set dir, or take doors out")
	}
	names := make([]string, 0, len(v.config.Inbound)+len(v.config.Outbound))
	for _, d := range v.config.Inbound {
		names = append(names, d.Name)
	}
	for _, d := range v.config.Outbound {
		names = append(names, d.Name)
	}
	for i, name := range t.Doors {
		if !slices.Contains(names, name) {
			v.wrong(indexed("tap.doors", i), "%s is not the name of a door; allowed: %s",
				quoted(name), choice(strings.Join(names, " ")))
		} else if slices.Contains(t.Doors[:i], name) {
			v.wrong(indexed("tap.doors", i), "%s is there twice", quoted(name))
		}
	}
}
