package main

import (
	"fmt"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"slipstream/proxy"
	"slipstream/proxy/logfmt"
)

// newLogger writes to w, in the configured form. The level can be changed while
// it is in use.
func newLogger(conf proxy.LogConfig, w io.Writer) (*zap.Logger, zap.AtomicLevel, error) {
	level, err := zap.ParseAtomicLevel(conf.Level)
	if err != nil {
		return nil, level, fmt.Errorf("log: %w", err)
	}
	keys := zap.NewProductionEncoderConfig()
	keys.TimeKey, keys.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
	keys.CallerKey, keys.StacktraceKey = "", ""
	encoder := logfmt.NewEncoder(keys)
	if conf.Format == "json" {
		encoder = zapcore.NewJSONEncoder(keys)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)), level, nil
}
