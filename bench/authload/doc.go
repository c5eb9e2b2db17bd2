// Package authload holds the CPU time that authentication takes, DKIM, SPF, DMARC and ARC together, against that of
// others who do the same: rspamd with the modules for these and no others, and OpenDKIM with OpenDMARC.
//
//	go test -run '^$' -bench Peers -benchtime 1x ./bench/authload
//
// Each contestant is a process of its own that gets the same messages over a connection of loopback and the same
// answers from the same name server, and is warm: what it can remember, it does. Ours speaks what rspamd speaks, HTTP;
// OpenDKIM and OpenDMARC are milters, asked one after the other as an MTA does. What is counted is the CPU time of the
// contestant's processes alone, system time included; that of the one who asks and of the name server is not.
//
// OpenDKIM and OpenDMARC verify no ARC chain; nobody does it for them here.
//
// Beside these, the bare cryptography that nobody can do without is timed: one RSA-2048 verification, and SHA-256 over
// the body.
package authload
