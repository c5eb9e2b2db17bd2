package badgerkv

// SetMaxSize makes a KV smaller than anybody may want it.
func (k *KV) SetMaxSize(octets int64) { k.o.MaxSize = octets }

// Warn passes on a warning of Badger's.
func Warn(log func(level, msg string), format string, args ...any) {
	logger{log}.Warningf(format, args...)
}
