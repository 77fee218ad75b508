//! Reads the partitions that a member of a group owns: who leads each is known here, and a thread a broker fetches.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::cluster::{Cluster, Layout, Node};
use super::failure;
use super::fetcher::{Fetcher, Wanted};
use super::incoming::{Incoming, Spares};
use super::settings::ReaderSettings;
use crate::broker::kafka::config::KafkaConfig;
use crate::broker::kafka::signal::Signal;
use crate::broker::kafka::told::GroupContext;
use crate::broker::{BrokerError, Class, PollEnd, PollLimit, Polled, Queue, Waker};
use crate::clock::{Clock as _, SystemClock};
use crate::lease::{Lease, NextOffset, Partition};

/// How long it may take to find out who leads.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// After how long it is looked again where a partition has no leader.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The operation of everything that is about the whole topic.
const OPERATION: &str = "read a topic";

/// A reader of one topic. Its threads end soon after it is dropped.
pub(in crate::broker::kafka) struct Reader {
    shared: Arc<Shared>,
}

/// What the threads of a reader share.
pub(super) struct Shared {
    pub(super) settings: ReaderSettings,
    pub(super) client: StrBytes,
    pub(super) clock: SystemClock,
    /// Whom to tell of ends, and of what can't be read.
    pub(super) told: Arc<GroupContext>,
    topic: String,
    spares: Arc<Spares>,
    stopped: AtomicBool,
    /// Raised when somebody does not lead any more.
    look: Signal,
    seen: Mutex<Seen>,
}

/// Who leads what, as of the last look, and what is read.
#[derive(Default)]
struct Seen {
    layout: Layout,
    nodes: BTreeMap<Node, String>,
    incoming: BTreeMap<Partition, Arc<Incoming>>,
    /// The brokers that somebody fetches from, and what wakes him.
    fetchers: BTreeMap<Node, Arc<Signal>>,
    /// Whether another topic bears the name by now.
    is_another: bool,
}

impl Reader {
    /// A reader of `topic`, whose cluster was asked whether it speaks as we do.
    ///
    /// # Errors
    ///
    /// [`Class::Unreachable`] if the broker could not be reached within the start-up bound, [`Class::Refused`] if it does not speak as we do.
    pub(in crate::broker::kafka) fn new(
        config: &KafkaConfig,
        settings: ReaderSettings,
        topic: &str,
        told: Arc<GroupContext>,
    ) -> Result<Self, BrokerError> {
        let mut cluster = Cluster::new(&config.bootstrap_servers, &settings.client);
        let until = cluster.clock().now().after(config.start_up_max);
        loop {
            cluster.give(LOOK_MAX);
            match cluster.look(&[topic]) {
                Ok(_) => break,
                Err(error) if error.class != Class::Retriable => return Err(error),
                Err(error) if cluster.clock().now() >= until => {
                    return Err(BrokerError { class: Class::Unreachable, ..error });
                }
                Err(_) => std::thread::sleep(settings.back_off),
            }
        }
        let shared = Arc::new(Shared {
            client: StrBytes::from_string(settings.client.clone()),
            settings,
            clock: SystemClock::new(),
            told,
            topic: topic.to_owned(),
            spares: Arc::default(),
            stopped: AtomicBool::new(false),
            look: Signal::default(),
            seen: Mutex::default(),
        });
        let thread = Arc::clone(&shared);
        spawn("leaders".to_owned(), move || thread.look_out(cluster))?;
        Ok(Self { shared })
    }

    /// The incoming records of a partition, which is not read before it is opened.
    pub(in crate::broker::kafka) fn lane(&self, partition: Partition, waker: Waker) -> DirectLane {
        DirectLane::new(Arc::clone(&self.shared), partition, waker)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.wake_fetchers();
        self.shared.look_again();
    }
}

/// A partition, as the member that owns it and the worker that polls it hold it.
#[derive(Clone)]
pub(in crate::broker::kafka) struct DirectLane {
    shared: Arc<Shared>,
    incoming: Arc<Incoming>,
}

impl DirectLane {
    fn new(shared: Arc<Shared>, partition: Partition, waker: Waker) -> Self {
        let incoming =
            Incoming::new(partition, shared.settings.queue_bytes, Arc::clone(&shared.spares), waker);
        let incoming = Arc::new(incoming);
        shared.seen().incoming.insert(partition, Arc::clone(&incoming));
        Self { shared, incoming }
    }

    /// Replaces who is woken when something has come.
    pub(in crate::broker::kafka) fn set_waker(&self, waker: Waker) {
        self.incoming.set_waker(waker);
    }

    /// Wakes the reader.
    pub(in crate::broker::kafka) fn wake(&self) {
        self.incoming.wake();
    }

    /// Lets the partition be read, from `start`.
    pub(in crate::broker::kafka) fn open(&self, start: NextOffset) {
        self.incoming.open(start);
        if self.shared.seen().leader(self.incoming.partition).is_none() {
            self.shared.look_again();
        }
        self.shared.wake_fetchers();
    }

    /// Lets nothing out any more. When this returns no read is under way.
    pub(in crate::broker::kafka) fn close(&self) {
        self.incoming.close();
    }
}

impl Queue for DirectLane {
    fn poll(&mut self, lease: Lease, into: &mut Polled, limit: PollLimit) -> Result<PollEnd, BrokerError> {
        let (polled, has_room) = self.incoming.poll(lease, into, limit);
        if has_room {
            self.shared.wake_fetchers();
        }
        polled
    }

    fn position(&self) -> Option<NextOffset> {
        self.incoming.position()
    }

    fn end(&self) -> Option<NextOffset> {
        let heard = self.shared.told.end(self.incoming.partition);
        // What has been read lies before the end, also when what was heard is older than that.
        heard.max(self.position())
    }
}

impl Seen {
    fn leader(&self, partition: Partition) -> Option<(Node, i32)> {
        let place = usize::try_from(partition.0).ok()?;
        self.layout.leaders.get(place).copied().flatten().map(|leader| (leader.node, leader.epoch))
    }

    /// Whether somebody reads a partition that nobody leads.
    fn lacks_a_leader(&self) -> bool {
        !self.is_another
            && self.incoming.values().any(|it| it.is_open() && self.leader(it.partition).is_none())
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Somebody does not lead any more, or is away.
    pub(super) fn look_again(&self) {
        self.look.raise();
    }

    /// There may be something to ask for.
    fn wake_fetchers(&self) {
        self.seen().fetchers.values().for_each(|signal| signal.raise());
    }

    /// `host:port` of a broker.
    pub(super) fn address(&self, node: Node) -> Option<String> {
        self.seen().nodes.get(&node).cloned()
    }

    /// The topic, what its partitions that this broker leads are to be asked for now, and how many of them have no room for more.
    pub(super) fn wanted(&self, node: Node) -> (Uuid, Vec<Wanted>, usize) {
        let now = self.clock.now();
        let seen = self.seen();
        let (mut wanted, mut full) = (Vec::new(), 0);
        for incoming in seen.incoming.values() {
            let Some((leader, leader_epoch)) = seen.leader(incoming.partition) else { continue };
            if leader != node {
                continue;
            }
            match incoming.question(now) {
                Some(question) => {
                    wanted.push(Wanted { incoming: Arc::clone(incoming), question, leader_epoch });
                }
                None => full += usize::from(incoming.is_full()),
            }
        }
        (seen.layout.id, wanted, full)
    }

    /// How long until a partition that was paused is asked for again, at most.
    pub(super) fn until_resume(&self) -> Duration {
        let paused = self.seen().incoming.values().any(|it| it.is_paused());
        if paused { self.settings.back_off } else { Duration::MAX }
    }

    /// Keeps an eye on who leads, until the reader is gone.
    fn look_out(self: Arc<Self>, mut cluster: Cluster) {
        while !self.is_stopped() {
            cluster.give(LOOK_MAX);
            let again = match cluster.look(&[&self.topic]) {
                Ok(mut layouts) => {
                    let layout = layouts.remove(&self.topic).unwrap_or_default();
                    self.take_over(layout, cluster.nodes());
                    self.seen().lacks_a_leader()
                }
                Err(error) if error.class == Class::Retriable => {
                    tracing::debug!(%error, "the cluster could not be asked who leads");
                    true
                }
                Err(error) => {
                    self.seen().incoming.values().for_each(|incoming| incoming.fail(error.clone()));
                    false
                }
            };
            // Not more often than this, however often somebody asks.
            std::thread::sleep(self.settings.back_off);
            self.look.wait(if again { LOOK_AGAIN } else { self.settings.look_age });
        }
    }

    fn take_over(self: &Arc<Self>, layout: Layout, nodes: &BTreeMap<Node, String>) {
        let mut seen = self.seen();
        let known = seen.layout.id;
        if !known.is_nil() && !layout.id.is_nil() && known != layout.id {
            // Whoever looks at the topic for the group says so, and decides; what is read from here on would be another topic's.
            tracing::debug!(
                topic = self.topic,
                "a topic of this name was made anew: nothing more is read of it"
            );
            seen.layout.leaders.clear();
            seen.is_another = true;
            return;
        }
        if !layout.id.is_nil() {
            seen.layout.id = layout.id;
        }
        seen.layout.leaders = layout.leaders;
        seen.nodes.clone_from(nodes);
        let mut leaders: Vec<Node> = seen.layout.leaders.iter().flatten().map(|leader| leader.node).collect();
        leaders.sort_unstable();
        leaders.dedup();
        leaders.retain(|node| !seen.fetchers.contains_key(node));
        for node in leaders {
            let signal = Arc::new(Signal::default());
            let fetcher = Fetcher::new(node, Arc::clone(self), Arc::clone(&signal));
            match spawn(format!("fetch-{}", node.0), move || fetcher.run()) {
                Ok(()) => drop(seen.fetchers.insert(node, signal)),
                Err(error) => seen.incoming.values().for_each(|incoming| incoming.fail(error.clone())),
            }
        }
        drop(seen);
        self.wake_fetchers();
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<(), BrokerError> {
    let spawned = std::thread::Builder::new().name(name).spawn(run);
    spawned.map(drop).map_err(|error: io::Error| failure::unanswered(OPERATION, error.to_string()))
}

#[cfg(test)]
impl Shared {
    /// What the threads of a reader would share, without threads: broker 1 leads every partition.
    pub(super) fn of(partitions: i32, told: Arc<GroupContext>) -> Arc<Self> {
        use super::cluster::Leader;
        let settings = ReaderSettings::of(&KafkaConfig::new("nowhere:1")).expect("the defaults are its own");
        let leader = Some(Leader { node: Node(1), epoch: 3 });
        let count = usize::try_from(partitions).expect("it has partitions");
        let layout = Layout { id: Uuid::from_u128(7), leaders: vec![leader; count] };
        let shared = Self {
            client: StrBytes::from_static_str("test"),
            settings,
            clock: SystemClock::new(),
            told,
            topic: "requests".to_owned(),
            spares: Arc::default(),
            stopped: AtomicBool::new(false),
            look: Signal::default(),
            seen: Mutex::new(Seen { layout, ..Seen::default() }),
        };
        Arc::new(shared)
    }

    /// A lane of it.
    pub(super) fn lane(self: &Arc<Self>, partition: i32) -> DirectLane {
        DirectLane::new(Arc::clone(self), Partition(partition), Arc::new(|| ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_was_made_anew_is_not_read() {
        let shared = Shared::of(2, Arc::default());
        let lane = shared.lane(1);
        lane.open(NextOffset(5));
        let asked = |shared: &Shared| {
            let (topic, wanted, _) = shared.wanted(Node(1));
            wanted
                .iter()
                .map(|it| (topic, it.incoming.partition, it.question.from, it.leader_epoch))
                .collect::<Vec<_>>()
        };
        assert_eq!(asked(&shared), [(Uuid::from_u128(7), Partition(1), 5, 3)]);
        assert!(shared.wanted(Node(2)).1.is_empty(), "it is led by another one");
        let layout = Layout { id: Uuid::from_u128(8), leaders: shared.seen().layout.leaders.clone() };
        shared.take_over(layout, &BTreeMap::new());
        assert!(asked(&shared).is_empty() && !shared.seen().lacks_a_leader());
    }

    #[test]
    fn who_has_no_leader_is_looked_for() {
        let shared = Shared::of(1, Arc::default());
        let lane = shared.lane(0);
        lane.open(NextOffset(0));
        assert!(!shared.seen().lacks_a_leader());
        // The topic is not there for a moment: its id is kept.
        shared.take_over(Layout::default(), &BTreeMap::new());
        assert!(shared.seen().lacks_a_leader() && !shared.seen().layout.id.is_nil());
        lane.close();
        assert!(!shared.seen().lacks_a_leader());
    }
}
