//! A producer outside of transactions: what it has sent is seen at once.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::{BrokerError, PlainProducer};
use crate::records::RecordView;

use super::cluster::Shared;
use super::faults::{Fault, Step};
use super::local_queue::LocalQueue;
use super::producer::{operation, simulated_fault};

/// Dropped, it has sent nothing of what was still in its queue.
pub(super) struct SimulatedPlainProducer {
    shared: Arc<Shared>,
    message_bytes_max: usize,
    queue: LocalQueue,
}

impl SimulatedPlainProducer {
    pub(super) fn new(shared: Arc<Shared>, message_bytes_max: usize) -> Result<Self, BrokerError> {
        const OPERATION: &str = "make a producer";
        match shared.step(|cluster| cluster.faults.next(Step::Init)) {
            Some(Fault::Before(class) | Fault::After(class)) => Err(simulated_fault(class, OPERATION)),
            _ => Ok(Self { shared, message_bytes_max, queue: LocalQueue::default() }),
        }
    }
}

impl PlainProducer for SimulatedPlainProducer {
    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        let Self { shared, message_bytes_max, queue } = self;
        shared.step(|cluster| {
            let fault = cluster.faults.next(Step::Send);
            if let Some(Fault::Before(class)) = fault {
                return Err(simulated_fault(class, operation(Step::Send)));
            }
            queue.push(cluster, *message_bytes_max, topic, partition, record)?;
            match fault {
                Some(Fault::After(class)) => Err(simulated_fault(class, operation(Step::Send))),
                _ => Ok(()),
            }
        })
    }

    fn drain(&mut self, _wait: Duration) -> Result<bool, BrokerError> {
        let Self { shared, queue, .. } = self;
        shared.step(|cluster| {
            let fault = cluster.faults.next(Step::Drain);
            let sent = queue.sent_until(cluster, fault);
            queue.flush(cluster, sent, |cluster, topic, partition, created, record| {
                cluster.append(topic, partition, None, created, record);
            });
            match fault {
                Some(Fault::Before(class) | Fault::After(class)) => {
                    Err(simulated_fault(class, operation(Step::Drain)))
                }
                _ => Ok(queue.waiting() == 0),
            }
        })
    }
}
