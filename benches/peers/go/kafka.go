// Clients and their settings.
package main

import (
	"context"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

type (
	kmsgRequest  = kmsg.OffsetCommitRequest
	kmsgResponse = kmsg.OffsetCommitResponse
)

func options(c config) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(c.bootstrap),
		kgo.ClientID(c.instance),
		kgo.WithLogger(kgo.BasicLogger(os.Stderr, kgo.LogLevelWarn, nil)),

		kgo.ConsumerGroup(c.group),
		kgo.InstanceID(c.instance),
		kgo.ConsumeTopics(c.requests),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxBytes(16 << 20),
		kgo.FetchMaxPartitionBytes(1 << 20),
		kgo.FetchMaxWait(500 * time.Millisecond),

		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.ProducerLinger(5 * time.Millisecond),
		kgo.ProducerBatchMaxBytes(1_000_000),
		kgo.MaxBufferedRecords(50_000),
	}
}

// versions stay below Produce 12. From there on a first write that comes before the broker has ended the last transaction
// is refused, and the client retries it after its next metadata, up to 5 s later; AddPartitionsToTxn is asked again at once.
func versions() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(int16(kmsg.Produce), 11)
	return v
}

func serveExactlyOnce(stop ctx, c config, models map[string]*model) error {
	session, err := kgo.NewGroupTransactSession(append(options(c),
		kgo.TransactionalID(c.instance),
		kgo.RequireStableFetchOffsets(),
		kgo.MaxVersions(versions()),
		kgo.ConcurrentTransactionsBackoff(5*time.Millisecond),
	)...)
	if err != nil {
		return err
	}
	defer session.Close()
	p := &post{producer: session, results: c.results, letters: c.letters}
	return newWorker(c, models, session.Client(), p, &exactlyOnce{session}, nil).run(stop)
}

// serveAtLeastOnce lets partitions go only when the work on them is committed, so that a rebalance doubles nothing.
func serveAtLeastOnce(stop ctx, c config, models map[string]*model) error {
	drains, ended := make(chan chan struct{}), make(chan struct{})
	client, err := kgo.NewClient(append(options(c),
		kgo.OnPartitionsRevoked(func(ctx, *kgo.Client, map[string][]int32) {
			drained := make(chan struct{})
			select {
			case drains <- drained:
			case <-ended:
				return
			}
			select {
			case <-drained:
			case <-ended:
			}
		}),
		kgo.OnPartitionsLost(func(ctx, *kgo.Client, map[string][]int32) {}),
	)...)
	if err != nil {
		return err
	}
	defer client.Close()
	defer close(ended)
	p := &post{producer: client, results: c.results, letters: c.letters}
	return newWorker(c, models, client, p, newAtLeastOnce(client), drains).run(stop)
}

// leave tells the group that this instance is gone for now: a static member's Close does not, and others would wait for
// its session to end.
func leave(c config) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.bootstrap))
	if err != nil {
		return err
	}
	defer client.Close()
	within, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	request := kmsg.NewPtrLeaveGroupRequest()
	request.Group = c.group
	member := kmsg.NewLeaveGroupRequestMember()
	member.InstanceID = &c.instance
	request.Members = append(request.Members, member)
	// The work is committed: a group that hears of it later is no failure.
	_, _ = request.RequestWith(within, client)
	return nil
}
