package bench

// Scenarios returns the table of all there is to measure, one literal each. The trips are those of a small message, one
// recipient and nobody who thinks; every path that is there is held to them in virtual time.
func Scenarios() []Scenario {
	return []Scenario{
		// The first message to a server that nothing is known about.
		{Outbound, Clear, FirstContact, false, Old, ModernServer, Trips{7, 5}, true, []int{64 << 10, 1 << 20}},
		{Outbound, Clear, FirstContact, false, Pipelining, ModernServer, Trips{5, 4}, true, nil},
		{Outbound, Clear, FirstContact, false, Chunking, ModernServer, Trips{4, 4}, true, nil},
		{Outbound, Clear, FirstContact, false, Exim, EximServer, Trips{4, 4}, true, nil},
		{Outbound, Clear, FirstContact, false, Postfix, PostfixServer, Trips{5, 4}, true, nil},
		{Outbound, Clear, FirstContact, false, Postfix, EximServer, Trips{5, 4}, false, nil},
		{Outbound, Clear, FirstContact, false, Old, OldServer, Trips{7, 7}, false, nil},

		{Outbound, StartTLS12, FirstContact, false, Old, ModernServer, Trips{11, 9}, false, nil},
		{Outbound, StartTLS12, FirstContact, false, Pipelining, ModernServer, Trips{9, 8}, false, nil},
		{Outbound, StartTLS12, FirstContact, false, Chunking, ModernServer, Trips{8, 8}, false, nil},

		{Outbound, StartTLS13, FirstContact, false, Old, ModernServer, Trips{10, 8}, true, nil},
		{Outbound, StartTLS13, FirstContact, false, Pipelining, ModernServer, Trips{8, 7}, false, nil},
		{Outbound, StartTLS13, FirstContact, false, Chunking, ModernServer, Trips{7, 7}, false, nil},
		{Outbound, StartTLS13, FirstContact, false, Exim, EximServer, Trips{7, 7}, true, nil},
		{Outbound, StartTLS13, FirstContact, false, Postfix, PostfixServer, Trips{8, 7}, true, nil},

		{Outbound, Implicit, FirstContact, false, Old, ModernServer, Trips{8, 6}, false, nil},
		{Outbound, Implicit, FirstContact, false, Pipelining, ModernServer, Trips{6, 5}, false, nil},
		{Outbound, Implicit, FirstContact, false, Chunking, ModernServer, Trips{5, 5}, false, nil},

		// The server was met before.
		{Outbound, Clear, Known, false, Old, ModernServer, Trips{7, 3}, true, nil},
		{Outbound, Clear, Known, false, Pipelining, ModernServer, Trips{5, 2}, true, nil},
		{Outbound, Clear, Known, true, Pipelining, ModernServer, Trips{5, 2}, true, []int{512}},
		{Outbound, Clear, Known, false, Early, ModernServer, Trips{2, 2}, false, nil},
		{Outbound, Clear, Known, false, Exim, EximServer, Trips{2, 2}, true, nil},
		{Outbound, Clear, Known, true, Exim, EximServer, Trips{2, 2}, true, nil},
		{Outbound, StartTLS13, Known, false, Old, ModernServer, Trips{10, 5}, true, nil},
		{Outbound, StartTLS13, Known, false, Pipelining, ModernServer, Trips{8, 4}, true, nil},
		{Outbound, StartTLS13, Known, true, Pipelining, ModernServer, Trips{8, 3}, true, nil},
		{Outbound, StartTLS13, Known, false, Early, ModernServer, Trips{4, 4}, false, nil},
		{Outbound, StartTLS13, Known, false, Exim, EximServer, Trips{4, 4}, true, nil},
		{Outbound, StartTLS13, Known, true, Exim, EximServer, Trips{3, 3}, true, nil},
		{Outbound, Implicit, Known, false, Pipelining, ModernServer, Trips{6, 3}, true, nil},
		{Outbound, Implicit, Known, true, Pipelining, ModernServer, Trips{6, 2}, true, nil},
		{Outbound, Implicit, Known, false, Early, ModernServer, Trips{3, 3}, false, nil},

		// And a TLS session is at hand.
		{Outbound, StartTLS12, Resumed, false, Old, ModernServer, Trips{11, 8}, false, nil},
		{Outbound, StartTLS12, Resumed, false, Chunking, ModernServer, Trips{7, 7}, false, nil},
		{Outbound, StartTLS13, Resumed, false, Chunking, ModernServer, Trips{7, 7}, false, nil},

		// And a connection is still open.
		{Outbound, Clear, Warm, false, Old, ModernServer, Trips{7, 2}, true, []int{1 << 20}},
		{Outbound, Clear, Warm, false, Chunking, ModernServer, Trips{1, 1}, false, nil},
		{Outbound, StartTLS13, Warm, false, Old, ModernServer, Trips{10, 2}, true, nil},
		{Outbound, StartTLS13, Warm, false, Pipelining, ModernServer, Trips{8, 1}, true, nil},
		{Outbound, StartTLS13, Warm, false, Chunking, ModernServer, Trips{1, 1}, false, nil},
		{Outbound, StartTLS13, Warm, false, Exim, EximServer, Trips{4, 1}, true, nil},
		{Outbound, StartTLS13, Warm, false, Postfix, PostfixServer, Trips{8, 1}, true, nil},

		// The world sends to an MTA that never learned better, or to one of today.
		{Inbound, Clear, FirstContact, false, Old, OldServer, Trips{7, 7}, false, nil},
		{Inbound, Clear, FirstContact, false, Pipelining, OldServer, Trips{7, 5}, true, []int{1 << 20}},
		{Inbound, Clear, FirstContact, false, Chunking, OldServer, Trips{7, 4}, true, nil},
		{Inbound, Clear, FirstContact, false, Exim, OldServer, Trips{7, 4}, true, nil},
		{Inbound, Clear, FirstContact, false, Postfix, OldServer, Trips{7, 5}, true, nil},
		{Inbound, Clear, FirstContact, false, Pipelining, ModernServer, Trips{5, 5}, false, nil},
		{Inbound, Clear, FirstContact, false, Chunking, ModernServer, Trips{4, 4}, false, nil},
		{Inbound, Clear, FirstContact, false, Exim, PostfixServer, Trips{4, 4}, true, nil},
		{Inbound, Clear, FirstContact, false, Postfix, EximServer, Trips{5, 5}, false, nil},

		{Inbound, StartTLS12, FirstContact, false, Chunking, OldServer, Trips{11, 8}, false, nil},
		{Inbound, StartTLS13, FirstContact, false, Old, OldServer, Trips{10, 10}, false, nil},
		{Inbound, StartTLS13, FirstContact, false, Pipelining, OldServer, Trips{10, 8}, true, nil},
		{Inbound, StartTLS13, FirstContact, false, Chunking, OldServer, Trips{10, 7}, false, nil},
		{Inbound, StartTLS13, FirstContact, false, Exim, PostfixServer, Trips{7, 7}, false, nil},
		{Inbound, StartTLS13, FirstContact, false, Postfix, EximServer, Trips{8, 8}, false, nil},
		{Inbound, Implicit, FirstContact, false, Chunking, OldServer, Trips{8, 5}, false, nil},

		{Inbound, Clear, Known, false, Early, ModernServer, Trips{2, 2}, false, nil},
		{Inbound, Clear, Known, false, Exim, OldServer, Trips{7, 2}, true, nil},
		{Inbound, StartTLS13, Known, false, Early, ModernServer, Trips{4, 4}, false, nil},
		{Inbound, StartTLS13, Known, false, Exim, OldServer, Trips{10, 4}, true, nil},
		{Inbound, Implicit, Known, false, Early, ModernServer, Trips{3, 3}, false, nil},
		{Inbound, Implicit, Known, false, Exim, OldServer, Trips{8, 3}, false, nil},
		{Inbound, StartTLS12, Resumed, false, Chunking, OldServer, Trips{10, 7}, false, nil},
		{Inbound, StartTLS13, Resumed, false, Chunking, OldServer, Trips{10, 7}, false, nil},
		{Inbound, Clear, Warm, false, Chunking, OldServer, Trips{4, 1}, false, nil},
		{Inbound, StartTLS13, Warm, false, Chunking, OldServer, Trips{4, 1}, false, nil},
	}
}
