// At least once: offsets follow when everything below them is acknowledged.
package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

type offsets = map[string]map[int32]kgo.EpochOffset

type commit struct {
	round   *round
	offsets offsets
}

// atLeastOnce commits behind the worker's back, round after round, so that no lane waits for a broker.
type atLeastOnce struct {
	client *kgo.Client
	queue  chan commit
	queued sync.WaitGroup
	fault  atomic.Pointer[error]
}

func newAtLeastOnce(client *kgo.Client) *atLeastOnce {
	d := &atLeastOnce{client: client, queue: make(chan commit, 2)}
	go d.commits()
	return d
}

func (d *atLeastOnce) begin() error  { return d.fatal() }
func (d *atLeastOnce) carries() bool { return true }

func (d *atLeastOnce) fatal() error {
	if err := d.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// end takes the offsets polled so far, less the rows that still wait in a batch.
func (d *atLeastOnce) end(rd *round, waiting []*batch) error {
	polled := d.client.UncommittedOffsets()
	for _, b := range waiting {
		if b == nil {
			continue
		}
		for _, r := range b.records {
			at, ok := polled[r.Topic][r.Partition]
			if ok && r.Offset < at.Offset {
				polled[r.Topic][r.Partition] = kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset}
			}
		}
	}
	d.queued.Add(1)
	d.queue <- commit{rd, polled}
	return d.fatal()
}

func (d *atLeastOnce) close() error {
	d.queued.Wait()
	return d.fatal()
}

func (d *atLeastOnce) commits() {
	for c := range d.queue {
		c.round.lanes.Wait()
		c.round.acks.Wait()
		if err := c.round.fault(); err != nil {
			d.fault.CompareAndSwap(nil, &err)
		}
		if d.fatal() == nil {
			d.commit(c.offsets)
		}
		d.queued.Done()
	}
}

// commit leaves out partitions that have gone since: their new owner may be further.
func (d *atLeastOnce) commit(to offsets) {
	held := d.client.UncommittedOffsets()
	for topic, partitions := range to {
		for partition := range partitions {
			if _, ok := held[topic][partition]; !ok {
				delete(partitions, partition)
			}
		}
	}
	d.client.CommitOffsetsSync(context.Background(), to, func(_ *kgo.Client, _ *kmsgRequest, response *kmsgResponse, err error) {
		if err != nil {
			slog.Warn("commit; the next one covers it", "error", err)
			return
		}
		for _, t := range response.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode != 0 {
					slog.Warn("commit; the next one covers it", "partition", p.Partition, "code", p.ErrorCode)
				}
			}
		}
	})
}
