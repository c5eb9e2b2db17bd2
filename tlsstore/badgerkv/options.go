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
	// Sync is for what must not be lost, which a cache may be: a write is on the disk when it has been made, and there
	// after a loss of power, too; and Maintain drops nothing whose time is not over.
	Sync bool
	// Small is for a store of a few small records: Badger takes a fraction of the memory. A directory is to be opened so
	// always or never. A value may have 64 KiB then.
	Small bool
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
	SmallMaxValue  = 64 << 10  // octets of a value with Options.Small

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

	// With Options.Small. What is changed at once must fit into 15 % of a memory table.
	smallMemTable   = 1 << 20
	smallBlockCache = 256 << 10
	smallIndexCache = 1 << 20
)

// maxValue is how many octets a value may have.
func (o Options) maxValue() int {
	if o.Small {
		return SmallMaxValue
	}
	return MaxValue
}

// memTable is how many octets of records are in memory before they go to a table.
func (o Options) memTable() int64 {
	if o.Small {
		return smallMemTable
	}
	return memTable
}

// maxWAL is how many octets a write-ahead log has: what Badger makes it. With a longer one its memory table would
// overflow.
func (o Options) maxWAL() int64 { return 2 * o.memTable() }

// badgerOptions makes Badger small, quiet and sealed.
//
// Its data keys are not renewed: Badger does that while it writes a table, and ends the process where it fails. It also
// writes in clear when the clock says that less than the life of a data key has passed since 1970 and there is none
// yet, hence a life shorter than that, and a data key before anything else: see [dataKeys].
func badgerOptions(o Options) badger.Options {
	b := badger.DefaultOptions(o.Dir).WithLogger(logger{o.Log})
	b.MetricsEnabled = false
	b.SyncWrites = o.Sync // else what a loss of power takes is learned anew
	b.DetectConflicts = false
	b.NumVersionsToKeep = 1
	b.NumGoroutines = 1

	b.MemTableSize = o.memTable()
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
	if o.Small {
		b.BlockCacheSize, b.IndexCacheSize = smallBlockCache, smallIndexCache
		b.ValueThreshold = SmallMaxValue + 1
	}

	b.EncryptionKey = o.Key
	b.EncryptionKeyRotationDuration = dataKeyLife
	b.ChecksumVerificationMode = options.OnBlockRead
	b.BypassLockGuard = true // the directory is ours before anything in it is looked at: see lockDir
	return b
}
