package badgerkv

import (
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Options are for [Open]. Dir and Key must be given.
type Options struct {
	// Dir is made when it is missing, and is nobody else's: a directory that holds other files is refused.
	Dir string
	// Key seals what is on disk. It has 32 octets, see [LoadKey].
	Key []byte
	// MaxSize is how many octets there may be on disk. It is looked after by Maintain, and never exceeded by more than
	// a quarter, save while records are moved. 0 is DefaultMaxSize.
	MaxSize int64
	// Log is told what Badger has to say; level is "debug", "info", "warn" or "error". Nil: nobody is told. It may be
	// called from several goroutines.
	Log func(level, msg string)
}

// Limits of what is kept.
const (
	DefaultMaxSize = 256 << 20 // octets on disk
	MinSize        = 48 << 20  // a smaller Options.MaxSize is taken for this: Badger's own files need as much
	MaxKey         = 1 << 10   // octets of a key
	MaxValue       = 1<<20 - 1 // octets of a value: a longer one would go to Badger's value log, which we do without

	// Reserve is how many octets of the disk are left to others: while less than this is free, nothing is written;
	// while less than half of it is, nothing is opened. Badger writes through memory maps, so that a disk that is full
	// beneath them would end the process.
	Reserve = 128 << 20

	keyOctets = 32

	memTable      = 8 << 20 // octets of records that are in memory before they go to a table
	memTables     = 2
	baseTable     = 2 << 20 // octets of a table, each of which takes a file descriptor
	maxLevels     = 7
	blockCache    = 1 << 20 // the Store keeps what is looked up again, and the kernel what is read again
	indexCache    = 8 << 20 // without one, Badger panics when it has a key; from 4 MiB the indices of 300 MB fall out
	valueLog      = 1 << 20 // the least: nothing of ours is long enough for it
	dataKeyLife   = 20 * 365 * 24 * time.Hour
	valueLogAbove = MaxValue + 1
)

// badgerOptions makes Badger small, quiet and sealed.
//
// Its data keys are not renewed: Badger does that while it writes a table, and ends the process where it fails. It also
// writes in clear when the clock says that less than the life of a data key has passed since 1970 and there is none
// yet, hence a life shorter than that, and a data key before anything else: see [dataKeys].
func badgerOptions(o Options) badger.Options {
	b := badger.DefaultOptions(o.Dir).WithLogger(logger{o.Log})
	b.MetricsEnabled = false
	b.SyncWrites = false // what a loss of power takes is learned anew
	b.DetectConflicts = false
	b.NumVersionsToKeep = 1
	b.NumGoroutines = 1

	b.MemTableSize = memTable
	b.NumMemtables = memTables
	b.BaseTableSize = baseTable
	b.TableSizeMultiplier = 1 // the larger the tables, the more memory it takes to join them
	b.MaxLevels = maxLevels
	b.BlockCacheSize = blockCache
	b.IndexCacheSize = indexCache
	b.NumCompactors = 2
	b.Compression = options.None // what is sealed or random does not shrink
	b.ValueLogFileSize = valueLog
	b.ValueThreshold = valueLogAbove

	b.EncryptionKey = o.Key
	b.EncryptionKeyRotationDuration = dataKeyLife
	b.ChecksumVerificationMode = options.OnBlockRead
	b.BypassLockGuard = true // the directory is ours before anything in it is looked at: see lockDir
	return b
}
