// What the environment asks for.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

type config struct {
	bootstrap, requests, results, letters string
	group, instance                       string
	models                                string
	modelIDs                              []string
	exactlyOnce                           bool
	threads, batchSize                    int
	batchDelay, commitInterval            time.Duration
	ortLibrary                            string
}

// environment collects the first fault, so that readers of variables need not each return one.
type environment struct{ err error }

func (e *environment) text(name string) string {
	value := os.Getenv(name)
	if value == "" && e.err == nil {
		e.err = fmt.Errorf("%s is not set", name)
	}
	return value
}

func (e *environment) number(name string, standard int) int {
	value := os.Getenv(name)
	if value == "" {
		return standard
	}
	n, err := strconv.Atoi(value)
	if (err != nil || n < 1) && e.err == nil {
		e.err = fmt.Errorf("%s is no positive number: %q", name, value)
	}
	return n
}

func readConfig() (config, error) {
	var e environment
	c := config{
		bootstrap:      e.text("PEER_BOOTSTRAP"),
		requests:       e.text("PEER_REQUESTS"),
		results:        e.text("PEER_RESULTS"),
		letters:        e.text("PEER_DLQ"),
		group:          e.text("PEER_GROUP"),
		instance:       e.text("PEER_INSTANCE"),
		models:         e.text("PEER_MODELS"),
		modelIDs:       strings.Split(e.text("PEER_MODEL_IDS"), ","),
		threads:        e.number("PEER_THREADS", 1),
		batchSize:      e.number("PEER_BATCH_SIZE", 64),
		batchDelay:     time.Duration(e.number("PEER_BATCH_DELAY_MS", 50)) * time.Millisecond,
		commitInterval: time.Duration(e.number("PEER_COMMIT_INTERVAL_MS", 100)) * time.Millisecond,
		ortLibrary:     e.text("ORT_DYLIB_PATH"),
	}
	switch delivery := e.text("PEER_DELIVERY"); delivery {
	case "exactly-once":
		c.exactlyOnce = true
	case "at-least-once", "":
	default:
		return c, fmt.Errorf("PEER_DELIVERY is neither exactly-once nor at-least-once: %q", delivery)
	}
	return c, e.err
}
