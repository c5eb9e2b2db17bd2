package aggregate

// A Kind says what happened.
type Kind string

const (
	// Of the journal: Err says why, Count how many records were lost since it was last said.

	KindLost    Kind = "records lost"    // they could not be written
	KindDropped Kind = "day dropped"     // Day was removed unread, to make room
	KindDamaged Kind = "journal damaged" // Count octets of the file of Day belong to no record

	// Of reports.

	KindSent     Kind = "report sent"
	KindDeferred Kind = "report deferred"   // Err says why; it will be tried again
	KindRefused  Kind = "report refused"    // by the MTA, for good
	KindGaveUp   Kind = "report given up"   // Err is the last error
	KindUnwanted Kind = "report not wanted" // the domain of To does not say that it wants reports on Domain
	KindLeftOut  Kind = "rows left out"     // Count messages are in no report; Err says why

	// Of days.

	KindDay    Kind = "day reported" // nothing is left to do for Day; Count messages were in its journal
	KindFailed Kind = "day deferred" // Err stopped the work on Day; it will be taken up again
)

// An Event is told to whoever keeps the log and counts. Fields that do not apply are zero. What came from outside is a
// canonical domain or a mailbox of printable ASCII, save for what Err says.
type Event struct {
	Kind     Kind
	Day      Day
	Domain   string // policy domain
	To       string // mailbox
	ReportID string
	Octets   int // of the message
	Rows     int
	Count    int64
	Err      error
}

func (f observer) tell(e Event) {
	if f != nil {
		f(e)
	}
}

// An observer is told events, by several goroutines, and must not wait. It may be nil.
type observer func(Event)
