package arc

const (
	// MaxHeaderSize is how many octets of header are looked at: what Exim
	// takes at most, and ten times what Postfix does.
	MaxHeaderSize = 1 << 20

	// MaxFields is how many header fields are looked at. Mail that has been
	// through many lists has some two hundred.
	MaxFields = 2000

	// MaxSets is the highest instance of a set
	// (https://www.rfc-editor.org/rfc/rfc8617#section-4.2.1).
	MaxSets = 50

	// MaxTagList is how long a list of tags may be: a signature over a
	// thousand fields by the largest key fits.
	MaxTagList = 16 << 10

	// MaxTags is how many tags a list may have. DKIM defines fourteen.
	MaxTags = 64

	// MaxKeyRecord is how long the TXT record of a key may be: the largest
	// key takes 1420 octets.
	MaxKeyRecord = 4 << 10

	// MaxKeyRecords is how many TXT records one name may have before they are
	// given up unread. One is right.
	MaxKeyRecords = 16

	// MinRSABits and MaxRSABits bound the keys that are trusted. Below, a
	// signature proves nothing (https://www.rfc-editor.org/rfc/rfc8301#section-3.2);
	// above, to verify one costs a stranger nothing and us much.
	MinRSABits = 1024
	MaxRSABits = 8192

	// maxKeyText is how long the text of a key may be before it is refused
	// without being decoded; one of MaxRSABits has 1416 characters.
	maxKeyText = 1600

	// MaxLookups is how many keys are asked for: two for each set.
	MaxLookups = 2 * MaxSets

	// MaxParallel is how many of them are asked for at the same time.
	MaxParallel = 8

	// MaxResults is how long the results may be that a set carries.
	MaxResults = 16 << 10

	// maxLine is the longest line that goes out
	// (https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1).
	maxLine = 998
)
