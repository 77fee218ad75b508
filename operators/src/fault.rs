//! Faults: why an engine stops by itself. The first one counts; after it nothing more is committed.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::broker::BrokerError;
use crate::continuity::Breaks;
use crate::lease::{NextOffset, Offset, Partition};
use crate::metadata::TopicId;

/// Why an engine stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The epoch frontier passed a record that has no outcome: an operator dropped it.
    #[error(
        "the record at offset {} of partition {} left the dataflow without an outcome; nothing at or past it was committed",
        offset.0, partition.0
    )]
    MissingOutcome {
        /// Its partition.
        partition: Partition,
        /// Its offset.
        offset: Offset,
    },
    /// A record was given two outcomes.
    #[error(
        "the record at offset {} of partition {} was given {error}; nothing was committed after it was noticed",
        offset.0, partition.0
    )]
    SurplusOutcome {
        /// Its partition.
        partition: Partition,
        /// Its offset.
        offset: Offset,
        /// What was wrong with the outcome.
        error: crate::ledger::CloseError,
    },
    /// A record has been open for longer than any may.
    #[error(
        "the record at offset {} of partition {} has had no outcome for longer than `outcome.deadline`",
        offset.0, partition.0
    )]
    Overdue {
        /// Its partition.
        partition: Partition,
        /// Its offset.
        offset: Offset,
    },
    /// More executors of a device than may be are stuck in runs that do not return.
    #[error(
        "{executors} runs on the device {device:?} do not return, not even when they are cancelled, the last of the model {model:?}: more than `onnx.stuck_max`"
    )]
    Stuck {
        /// The device.
        device: String,
        /// The model of the last of them.
        model: String,
        /// How many are stuck.
        executors: usize,
    },
    /// Another process uses this transactional id.
    #[error(
        "fenced: another process uses the transactional id {transactional_id:?}; give each process its own `kafka.instance`"
    )]
    Fenced {
        /// The id.
        transactional_id: String,
    },
    /// Logs do not go on where the group has left them.
    #[error("{0}")]
    LogChanged(Breaks),
    /// The topic was deleted, and another one was made of the same name.
    #[error(
        "the topic {topic:?} was made anew: {was} was deleted, and {is} has its name; nothing of it was committed"
    )]
    TopicChanged {
        /// Its name.
        topic: String,
        /// The topic that was read.
        was: TopicId,
        /// The topic that there is.
        is: TopicId,
    },
    /// The topic was deleted.
    #[error("the topic {topic:?} was deleted")]
    TopicGone {
        /// Its name.
        topic: String,
    },
    /// Somebody else has committed for the group, while this process held the partition.
    #[error(
        "partition {} was committed at {} by somebody else, while this process held it and stood at {}",
        partition.0, found.map_or_else(|| "nothing".to_owned(), |next| next.0.to_string()), ours.0
    )]
    ForeignCommit {
        /// The partition.
        partition: Partition,
        /// What was found committed.
        found: Option<NextOffset>,
        /// What this process had committed, or found when it began.
        ours: NextOffset,
    },
    /// After an unknown outcome the committed offset was neither that of before the transaction nor that of after it.
    #[error(
        "partition {} was committed at {} by someone else while a transaction from {} to {} was unresolved",
        partition.0, found.0, from.0, to.0
    )]
    Unreconciled {
        /// The partition.
        partition: Partition,
        /// What was found committed.
        found: NextOffset,
        /// What was committed before the transaction.
        from: NextOffset,
        /// What it was going to commit.
        to: NextOffset,
    },
    /// The offset metadata of a partition says nothing that we understand.
    #[error(
        "the offset metadata of partition {} was refused: {error}; reset the group's offsets, or use another group",
        partition.0
    )]
    Metadata {
        /// The partition.
        partition: Partition,
        /// What is wrong with it.
        error: crate::metadata::MetadataError,
    },
    /// The broker refused offset metadata of a length that Kafka takes by default.
    #[error(
        "the broker refused a commit: what goes with its offsets, at most 4096 bytes, is too large for it"
    )]
    MetadataTooLarge,
    /// The broker failed in a way that waiting does not mend.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Where the threads of an engine find out that it must stop.
#[derive(Debug, Default)]
pub struct Faults {
    first: OnceLock<Fault>,
    raised: AtomicBool,
}

impl Faults {
    /// No fault yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises a fault; only the first is kept.
    pub fn raise(&self, fault: Fault) {
        tracing::error!(%fault, "the engine stops");
        // A second fault is a consequence of the first, and was logged.
        drop(self.first.set(fault));
        self.raised.store(true, Ordering::SeqCst);
    }

    /// The first fault, if there was one.
    pub fn get(&self) -> Option<&Fault> {
        if self.raised.load(Ordering::SeqCst) { self.first.get() } else { None }
    }
}
