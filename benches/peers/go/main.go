// The article's inference worker on franz-go and onnxruntime_go: Kafka in, ONNX models, Kafka out.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
)

// stopWithin bounds a clean end; a broker that is away must not hold the process for longer.
const stopWithin = 18 * time.Second

func main() {
	if os.Getenv("GOGC") == "" {
		// Nearly all memory is fetched bytes that live for milliseconds: collecting less often is cheaper.
		debug.SetGCPercent(400)
	}
	if err := serve(); err != nil {
		slog.Error("ended", "error", err)
		os.Exit(1)
	}
}

func serve() error {
	c, err := readConfig()
	if err != nil {
		return err
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	models, err := loadModels(c)
	if err != nil {
		return err
	}
	context.AfterFunc(stop, func() {
		time.AfterFunc(stopWithin, func() {
			slog.Error("not ended in time; what is not committed is read again")
			os.Exit(1)
		})
	})
	if c.exactlyOnce {
		err = serveExactlyOnce(stop, c, models)
	} else {
		err = serveAtLeastOnce(stop, c, models)
	}
	if err != nil {
		return err
	}
	return leave(c)
}
