// Package aggregate tells the owners of domains once a day what mail came in their name: the aggregate reports of
// https://www.rfc-editor.org/rfc/rfc9990
//
// A message takes these steps:
//
//  1. [FromReport]: what of the verdicts on it concerns others who asked for reports
//  2. [Journal.Add]: that is written down, in a file for each day (frame.go, journal.go, journal_files.go)
//  3. [Reports]: soon after the day has ended, its file is read and counted (survey.go, group.go), and reports are made
//     of it (report.go, xml.go), as many as their size demands
//  4. [Recipients]: who wants them
//  5. [Scheduler]: they are handed to an MTA (message.go), each to each recipient once (state.go)
//
// Nothing of this is in the way of mail: Add does not wait, and what cannot be written down is counted and forgotten.
// Memory is bounded whatever the mail: see the constants.
//
// # Never twice, nor forgotten
//
// What was sent is kept in the directory of the journal. Before a report is sent, the intent is on the disk, and after
// it that it is done. A process that dies between the two does not know whether the MTA has the report; the next one
// sends it again. The second has the Report-ID, the file name and the Message-ID of the first, by which whoever reads
// reports finds duplicates (https://www.rfc-editor.org/rfc/rfc9990#section-3.5.4). A process that dies every time stops
// at [MaxAttempts].
package aggregate
