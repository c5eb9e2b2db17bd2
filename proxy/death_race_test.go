//go:build race

package proxy

// underRace: tests of thousands of runs take a sample.
const underRace = true
