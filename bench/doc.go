// Package bench measures what a message costs over a wide-area link, with Slipstream and without: the same client, the
// same server, the same link, and on one of two grounds.
//
//   - [WAN], the one that counts: the kernel's own TCP between two network namespaces, with a link of package wan between
//     them, and real mail servers where they are at hand. It needs Linux and root.
//   - [Sim], the portable one: the connections of package netsim. It has no slow start, no loss and no Fast Open, and only
//     reference peers live on it; but inside a testing/synctest bubble its trips are exact.
//
// What a message cost is read off the packets that crossed the link, by package meter, in the same way whoever sent them.
// A run goes through these steps, each in the file of its name: scenario (what there is to measure), table (the scenarios,
// one literal each), choose (which cells), run, lab (the parts of one scenario, put together), ground, sender and
// receiver, facts.
package bench
