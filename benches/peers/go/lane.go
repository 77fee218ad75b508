// A lane: one goroutine that decodes a batch, runs it and writes its results.
package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type ctx = context.Context

// round is the work between two commits: which batches are still in lanes, and which outcomes are not acknowledged yet.
type round struct {
	lanes, acks sync.WaitGroup
	mu          sync.Mutex
	err         error
}

func (r *round) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

func (r *round) fault() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// batch is up to a full batch of records of one model, and when each was polled.
type batch struct {
	m       *model
	records []*kgo.Record
	polled  []time.Time
	round   *round
}

// post is how outcomes leave.
type post struct {
	producer         producer
	results, letters string
}

func (p *post) letter(rd *round, r *kgo.Record, reason string) {
	rd.acks.Add(1)
	p.producer.Produce(context.Background(), letter(p.letters, r, reason), func(_ *kgo.Record, err error) {
		if err != nil {
			rd.fail(err)
		}
		rd.acks.Done()
	})
}

type lane struct {
	post     *post
	slots    []*slot
	requests []request
	good     []int
	common   []byte
	parcels  *sync.Pool
	batches  *sync.Pool
}

func newLane(c config, models map[string]*model, p *post, parcels, batches *sync.Pool) *lane {
	l := &lane{
		post:     p,
		slots:    make([]*slot, len(models)),
		requests: make([]request, c.batchSize),
		good:     make([]int, 0, c.batchSize),
		parcels:  parcels,
		batches:  batches,
	}
	for _, m := range models {
		l.slots[m.index] = newSlot(m, c.batchSize)
	}
	return l
}

func (l *lane) run(jobs <-chan *batch) {
	for b := range jobs {
		l.process(b)
		rd := b.round
		clear(b.records)
		b.m, b.round, b.records, b.polled = nil, nil, b.records[:0], b.polled[:0]
		l.batches.Put(b)
		rd.lanes.Done()
	}
}

func (l *lane) process(b *batch) {
	s := l.slots[b.m.index]
	l.good = l.good[:0]
	for i, r := range b.records {
		n := len(l.good)
		if reason := decode(r.Value, b.m.id, s.row(n), &l.requests[n]); reason != "" {
			l.post.letter(b.round, r, reason)
			continue
		}
		l.good = append(l.good, i)
	}
	if len(l.good) == 0 {
		return
	}
	t := batchTimes{started: time.Now(), rows: len(l.good)}
	if err := s.run(t.rows); err != nil {
		slog.Error("a batch failed, its rows run alone", "model", b.m.id, "error", err)
		l.alone(s, b)
		return
	}
	t.ended = time.Now()
	l.write(s, b, t)
}

// alone finds out which rows a model can't take, when one of them has failed the batch.
func (l *lane) alone(s *slot, b *batch) {
	for i, at := range append([]int(nil), l.good...) {
		copy(s.row(0), s.row(i))
		l.requests[0] = l.requests[i]
		t := batchTimes{started: time.Now(), rows: 1}
		if err := s.run(1); err != nil {
			l.post.letter(b.round, b.records[at], reasonInference)
			continue
		}
		t.ended = time.Now()
		l.good = append(l.good[:0], at)
		l.write(s, b, t)
	}
}

func (l *lane) write(s *slot, b *batch, t batchTimes) {
	m := b.m
	l.common = m.common(l.common[:0], t, b.records[0].Topic)
	p := l.parcels.Get().(*parcel)
	p.round, p.bytes = b.round, p.bytes[:0]
	n, now := 0, time.Now()
	for i, at := range l.good {
		r, req := b.records[at], &l.requests[i]
		start := len(p.bytes)
		bytes, ok := m.appendResult(p.bytes, req, s.result(i))
		if !ok {
			l.post.letter(b.round, r, reasonNotFinite)
			continue
		}
		bytes = appendTimes(bytes, b.polled[at], t.started, now)
		bytes = append(bytes, l.common...)
		p.bytes = appendOrigin(bytes, r)
		end := len(p.bytes)
		p.records[n] = kgo.Record{
			Topic: l.post.results, Key: req.id, Value: p.bytes[start:end:end], Headers: p.headersOf(n, m, req, r),
		}
		n++
	}
	if n == 0 {
		l.parcels.Put(p)
		return
	}
	b.round.acks.Add(1)
	p.left.Store(int32(n))
	for i := range n {
		l.post.producer.Produce(context.Background(), &p.records[i], p.done)
	}
}

func (p *parcel) headersOf(i int, m *model, req *request, r *kgo.Record) []kgo.RecordHeader {
	headers := p.headers[i*headersMax : i*headersMax : (i+1)*headersMax]
	headers = append(headers,
		kgo.RecordHeader{Key: "model_id", Value: m.idBytes},
		kgo.RecordHeader{Key: "tenant_id", Value: req.tenant})
	if trace := header(r, "traceparent"); trace != nil {
		headers = append(headers, kgo.RecordHeader{Key: "traceparent", Value: trace})
	}
	return headers
}

// header gives the last one of its name, which is the one that counts.
func header(r *kgo.Record, key string) []byte {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value
		}
	}
	return nil
}
