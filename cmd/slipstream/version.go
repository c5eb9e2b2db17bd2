package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

// Run prints version, commit and Go version.
func (*versionCmd) Run(con console) error {
	info, _ := debug.ReadBuildInfo() // nil where there is none
	_, err := io.WriteString(con.out, describeBuild(info))
	return err
}

// describeBuild tells what a build is made from.
func describeBuild(info *debug.BuildInfo) string {
	return fmt.Sprintf("slipstream %s\ncommit %s\n%s %s/%s\n",
		version(info), commit(info), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// version is the module's version, "(devel)" for a build from a working tree.
func version(info *debug.BuildInfo) string {
	if info == nil || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func commit(info *debug.BuildInfo) string {
	settings := make(map[string]string)
	if info != nil {
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
	}
	revision := settings["vcs.revision"]
	if revision == "" {
		return "unknown"
	}
	if settings["vcs.modified"] == "true" {
		revision += " with changes"
	}
	if at := settings["vcs.time"]; at != "" {
		revision += " of " + at
	}
	return revision
}

// buildVersion is the version of this build, with its commit where that is known.
func buildVersion() string {
	info, _ := debug.ReadBuildInfo() // nil where there is none
	if c := commit(info); c != "unknown" {
		return version(info) + ", commit " + c
	}
	return version(info)
}
