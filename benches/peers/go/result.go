// Results and dead letters as records.
package main

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// producer is the client or the transactional session around it.
type producer interface {
	Produce(within ctx, r *kgo.Record, promise func(*kgo.Record, error))
}

// parcel is the memory of one batch's results. It goes back to the pool once all of them are acknowledged.
type parcel struct {
	records []kgo.Record
	headers []kgo.RecordHeader
	bytes   []byte
	left    atomic.Int32
	failed  atomic.Bool
	round   *round
	done    func(*kgo.Record, error)
}

const headersMax = 3

func newParcels(rows int) *sync.Pool {
	pool := &sync.Pool{}
	pool.New = func() any {
		p := &parcel{records: make([]kgo.Record, rows), headers: make([]kgo.RecordHeader, rows*headersMax)}
		p.done = func(_ *kgo.Record, err error) {
			if err != nil {
				p.failed.Store(true)
				p.round.fail(err)
			}
			if p.left.Add(-1) > 0 {
				return
			}
			p.round.acks.Done()
			p.round = nil
			if !p.failed.Load() {
				pool.Put(p)
			}
		}
		return p
	}
	return pool
}

// batchTimes is what all results of a batch say alike.
type batchTimes struct {
	started, ended time.Time
	rows           int
}

// common is the part of the JSON between queue_ms and the origin's partition.
func (m *model) common(b []byte, t batchTimes, topic string) []byte {
	b = append(b, `,"inference_ms":`...)
	b = appendMillis(b, t.ended.Sub(t.started))
	b = append(b, `,"batch_size":`...)
	b = strconv.AppendInt(b, int64(t.rows), 10)
	b = append(b, `,"inferred_at":"`...)
	b = t.ended.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, `","model_version":"`...)
	b = append(b, m.version...)
	b = append(b, `","origin":{"topic":"`...)
	b = append(b, topic...)
	return append(b, `","partition":`...)
}

// appendResult gives false where an output is not finite, which JSON has no number for.
func (m *model) appendResult(b []byte, req *request, output []float32) ([]byte, bool) {
	b = append(b, `{"request_id":`...)
	b = append(b, req.rawID...)
	b = append(b, `,"model_id":"`...)
	b = append(b, m.id...)
	b = append(b, `","tenant_id":`...)
	b = append(b, req.rawTenant...)
	b = append(b, `,"output":`...)
	before := byte('[')
	for _, f := range output {
		if f-f != 0 {
			return b, false
		}
		b = append(b, before)
		b = strconv.AppendFloat(b, float64(f), 'g', -1, 32)
		before = ','
	}
	return append(b, ']'), true
}

func appendTimes(b []byte, polled, started, now time.Time) []byte {
	b = append(b, `,"latency_ms":`...)
	b = appendMillis(b, now.Sub(polled))
	b = append(b, `,"queue_ms":`...)
	return appendMillis(b, started.Sub(polled))
}

func appendOrigin(b []byte, r *kgo.Record) []byte {
	b = strconv.AppendInt(b, int64(r.Partition), 10)
	b = append(b, `,"offset":`...)
	b = strconv.AppendInt(b, r.Offset, 10)
	return append(b, "}}"...)
}

func appendMillis(b []byte, d time.Duration) []byte {
	micros := max(d.Microseconds(), 0)
	b = strconv.AppendInt(b, micros/1000, 10)
	rest := micros % 1000
	return append(b, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
}

// letterBytesMax leaves room for a batch's own bytes below the topic's usual 1,000,012.
const letterBytesMax = 900_000

func letter(topic string, r *kgo.Record, reason string) *kgo.Record {
	headers := make([]kgo.RecordHeader, 0, len(r.Headers)+6)
	headers = append(headers, r.Headers...)
	headers = append(headers,
		kgo.RecordHeader{Key: "original_topic", Value: []byte(r.Topic)},
		kgo.RecordHeader{Key: "original_partition", Value: strconv.AppendInt(nil, int64(r.Partition), 10)},
		kgo.RecordHeader{Key: "original_offset", Value: strconv.AppendInt(nil, r.Offset, 10)},
		kgo.RecordHeader{Key: "reason", Value: []byte(reason)},
		kgo.RecordHeader{Key: "failed_at", Value: time.Now().UTC().AppendFormat(nil, time.RFC3339Nano)})
	out := &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value, Headers: headers}
	room := letterBytesMax - len(r.Key)
	for _, h := range headers {
		room -= len(h.Key) + len(h.Value) + 16
	}
	if room < 0 {
		out.Key, out.Headers, room = nil, headers[len(r.Headers):], letterBytesMax
	}
	if len(out.Value) > room {
		out.Value = out.Value[:room]
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: "truncated", Value: strconv.AppendInt(nil, int64(len(r.Value)), 10)})
	}
	return out
}
