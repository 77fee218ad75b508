// Exactly once: results and offsets of a round in one transaction.
package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"
)

type exactlyOnce struct{ session *kgo.GroupTransactSession }

func (d *exactlyOnce) begin() error  { return d.session.Begin() }
func (d *exactlyOnce) carries() bool { return false }
func (d *exactlyOnce) close() error  { return nil }

// end waits for the lanes only; End flushes without lingering. A transaction commits what was polled, so nothing may
// wait in a batch here. After an abort the session polls the same records again.
func (d *exactlyOnce) end(rd *round, _ []*batch) error {
	rd.lanes.Wait()
	if err := d.session.Client().Flush(context.Background()); err != nil {
		return err
	}
	rd.acks.Wait()
	fault := rd.fault()
	committed, err := d.session.End(context.Background(), kgo.TransactionEndTry(fault == nil))
	if err != nil {
		return fmt.Errorf("the transaction could not be ended: %w", err)
	}
	if !committed {
		slog.Warn("a transaction was aborted, its requests are read again", "cause", fault)
	}
	return nil
}
