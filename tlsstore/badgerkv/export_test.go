package badgerkv

// SetMaxSize makes a KV smaller than anybody may want it.
func (k *KV) SetMaxSize(octets int64) { k.o.MaxSize = octets }
