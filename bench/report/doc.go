// Package report says what a run of the benchmark found: as a table for a terminal, as JSON, as lines for Go's
// benchmark tools, and as one HTML page with a picture of every conversation.
//
// It measures nothing and rounds only for the eye; JSON and benchmark lines carry what was measured. A report may have
// been read from a file that someone else wrote: all of it is escaped, and every picture is bounded whatever the
// numbers in it are.
package report
