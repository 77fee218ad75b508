// The worker: polls, gathers records by model, hands full or overdue batches to the lanes, and ends a round at each commit.
package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// delivery is what a promise needs around a round.
type delivery interface {
	begin() error
	// end commits the round and what it has polled. waiting are the batches that still gather rows;
	// a delivery that can't leave them behind says so in carries.
	end(rd *round, waiting []*batch) error
	carries() bool
	// close returns once everything ended is committed.
	close() error
}

const (
	pollMin = 512
	pollMax = 4096
)

type worker struct {
	c        config
	client   *kgo.Client
	models   map[string]*model
	post     *post
	delivery delivery
	waiting  []*batch
	jobs     chan *batch
	round    *round
	rows     int
	poll     int
	batches  *sync.Pool
	drains   chan chan struct{}
}

func newWorker(c config, models map[string]*model, client *kgo.Client, p *post, d delivery, drains chan chan struct{}) *worker {
	w := &worker{
		c: c, client: client, models: models, post: p, delivery: d, drains: drains,
		waiting: make([]*batch, len(models)), jobs: make(chan *batch, 8*c.threads), poll: pollMin,
	}
	w.batches = &sync.Pool{New: func() any {
		return &batch{records: make([]*kgo.Record, 0, c.batchSize), polled: make([]time.Time, 0, c.batchSize)}
	}}
	return w
}

func (w *worker) run(stop ctx) error {
	parcels := newParcels(w.c.batchSize)
	var lanes sync.WaitGroup
	for range w.c.threads {
		l := newLane(w.c, w.models, w.post, parcels, w.batches)
		lanes.Go(func() { l.run(w.jobs) })
	}
	defer func() {
		close(w.jobs)
		lanes.Wait()
	}()
	for stop.Err() == nil {
		if err := w.oneRound(stop); err != nil {
			return err
		}
	}
	return w.delivery.close()
}

func (w *worker) oneRound(stop ctx) error {
	if err := w.delivery.begin(); err != nil {
		return err
	}
	w.round, w.rows = &round{}, 0
	drained := w.gather(stop)
	// A quarter of a round's rows a poll: few calls, and a commit that is not late by more than that.
	w.poll = min(max(w.rows/4, pollMin), pollMax)
	if !w.delivery.carries() || stop.Err() != nil || drained != nil {
		for i := range w.waiting {
			w.dispatch(i)
		}
	}
	err := w.delivery.end(w.round, w.waiting)
	if drained != nil {
		if err == nil {
			err = w.delivery.close()
		}
		close(drained)
	}
	return err
}

// gather polls until the round's commit is due. It returns early when partitions are about to go, with whom to tell.
func (w *worker) gather(stop ctx) (drained chan struct{}) {
	var due time.Time
	for stop.Err() == nil {
		fetches := w.pollUntil(stop, w.deadline(due))
		now := time.Now()
		fetches.EachError(func(topic string, partition int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
				slog.Warn("fetch", "topic", topic, "partition", partition, "error", err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) { w.take(r, now) })
		if due.IsZero() && w.busy() {
			due = now.Add(w.c.commitInterval)
		}
		now = time.Now()
		for i, b := range w.waiting {
			if b != nil && now.Sub(b.polled[0]) >= w.c.batchDelay {
				w.dispatch(i)
			}
		}
		if !due.IsZero() && !now.Before(due) {
			return nil
		}
		select {
		case drained = <-w.drains:
			return drained
		default:
		}
	}
	return nil
}

func (w *worker) busy() bool {
	if w.rows > 0 {
		return true
	}
	for _, b := range w.waiting {
		if b != nil {
			return true
		}
	}
	return false
}

// deadline is when the next batch or the commit is due; while idle, when to look for a drain again.
func (w *worker) deadline(due time.Time) time.Time {
	at := due
	if at.IsZero() {
		at = time.Now().Add(w.c.commitInterval)
	}
	for _, b := range w.waiting {
		if b != nil {
			if late := b.polled[0].Add(w.c.batchDelay); late.Before(at) {
				at = late
			}
		}
	}
	return at
}

func (w *worker) pollUntil(stop ctx, at time.Time) kgo.Fetches {
	until, cancel := context.WithDeadline(stop, at)
	defer cancel()
	return w.client.PollRecords(until, w.poll)
}

func (w *worker) take(r *kgo.Record, now time.Time) {
	w.rows++
	if kind := header(r, "content-type"); kind != nil && string(kind) != "application/json" {
		w.post.letter(w.round, r, reasonType)
		return
	}
	id := header(r, "model_id")
	if len(id) == 0 {
		w.post.letter(w.round, r, reasonNoModelID)
		return
	}
	m := w.models[string(id)]
	if m == nil {
		var req request
		w.post.letter(w.round, r, decode(r.Value, string(id), nil, &req))
		return
	}
	b := w.waiting[m.index]
	if b == nil {
		b = w.batches.Get().(*batch)
		b.m = m
		w.waiting[m.index] = b
	}
	b.records, b.polled = append(b.records, r), append(b.polled, now)
	if len(b.records) == w.c.batchSize {
		w.dispatch(m.index)
	}
}

func (w *worker) dispatch(i int) {
	b := w.waiting[i]
	if b == nil {
		return
	}
	w.waiting[i] = nil
	b.round = w.round
	w.round.lanes.Add(1)
	w.jobs <- b
}
