//! Reads the partitions that a member of a group owns: who leads each is known here, and a thread a broker fetches.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::cluster::{Cluster, Layout, Node};
use super::failure;
use super::fetcher::{Fetcher, Wanted};
use super::incoming::Incoming;
use super::settings::ReaderSettings;
use super::spares::Spares;
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
    /// The brokers that somebody fetches from, and what wakes him.
    fetchers: Mutex<BTreeMap<Node, Arc<Signal>>>,
}

/// Who leads what, as of the last look, and what is read.
#[derive(Default)]
struct Seen {
    layout: Layout,
    nodes: BTreeMap<Node, String>,
    incoming: BTreeMap<Partition, Arc<Incoming>>,
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
            fetchers: Mutex::default(),
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
        self.incoming.values().any(|it| it.is_open() && self.leader(it.partition).is_none())
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
        self.fetchers().values().for_each(|signal| signal.raise());
    }

    fn fetchers(&self) -> MutexGuard<'_, BTreeMap<Node, Arc<Signal>>> {
        self.fetchers.lock().unwrap_or_else(PoisonError::into_inner)
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
                Err(error) if error.class != Class::Refused => {
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

    fn take_over(self: &Arc<Self>, mut layout: Layout, nodes: &BTreeMap<Node, String>) {
        let mut seen = self.seen();
        let known = seen.layout.id;
        if layout.id == known {
            // A broker that has lost touch tells of elections long past.
            for (leader, before) in layout.leaders.iter_mut().zip(&seen.layout.leaders) {
                if leader.zip(*before).is_some_and(|(leader, before)| leader.epoch < before.epoch) {
                    *leader = *before;
                }
            }
        }
        if layout.id.is_nil() {
            // The topic is not there, perhaps for a moment: it has its id still.
            seen.layout.leaders.clear();
        } else {
            seen.layout = layout;
        }
        if !known.is_nil() && known != seen.layout.id {
            // What was begun is another topic's.
            for incoming in seen.incoming.values().filter(|incoming| incoming.halt_if_begun()) {
                tracing::warn!(
                    partition = incoming.partition.0,
                    message = "the topic was made anew",
                    "a partition could not be read on"
                );
                self.told.out_of_range(incoming.partition);
            }
        }
        seen.nodes.clone_from(nodes);
        let leaders: BTreeSet<Node> =
            seen.layout.leaders.iter().flatten().map(|leader| leader.node).collect();
        drop(seen);
        for node in leaders {
            if let Err(error) = self.fetch_from(node) {
                self.seen().incoming.values().for_each(|incoming| incoming.fail(error.clone()));
            }
        }
        self.wake_fetchers();
    }

    /// Sees to it that somebody fetches from a broker.
    fn fetch_from(self: &Arc<Self>, node: Node) -> Result<(), BrokerError> {
        if self.fetchers().contains_key(&node) {
            return Ok(());
        }
        let signal = Arc::new(Signal::default());
        let fetcher = Fetcher::new(node, Arc::clone(self), Arc::clone(&signal));
        spawn(format!("fetch-{}", node.0), move || fetcher.run())?;
        self.fetchers().insert(node, signal);
        Ok(())
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
            fetchers: Mutex::default(),
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
    use super::super::cluster::Leader;
    use super::super::incoming::Answer;
    use super::*;
    use crate::broker::GroupEvent;
    use crate::broker::kafka::told::locked;

    /// What a broker is asked for: topic, partition, offset, the leader's epoch.
    fn asked(shared: &Shared, node: i32) -> Vec<(u128, i32, i64, i32)> {
        let (topic, wanted, _) = shared.wanted(Node(node));
        let asked =
            |it: &Wanted| (topic.as_u128(), it.incoming.partition.0, it.question.from, it.leader_epoch);
        wanted.iter().map(asked).collect()
    }

    #[test]
    fn of_a_topic_that_was_made_anew_only_that_is_read_which_was_not_begun_before() {
        let told: Arc<GroupContext> = Arc::default();
        let shared = Shared::of(3, Arc::clone(&told));
        let (begun, opened) = (shared.lane(1), shared.lane(2));
        begun.open(NextOffset(5));
        opened.open(NextOffset(0));
        assert_eq!(asked(&shared, 1), [(7, 1, 5, 3), (7, 2, 0, 3)]);
        assert_eq!(asked(&shared, 2), [], "it is led by another one");
        let question = shared.wanted(Node(1)).1[0].question;
        begun.incoming.arrived(question, Answer::default()).unwrap();
        // Nobody leads it, so that nobody is sent to fetch.
        let layout = Layout { id: Uuid::from_u128(8), leaders: Vec::new() };
        shared.take_over(layout, &BTreeMap::new());
        shared.seen().layout.leaders = vec![Some(Leader { node: Node(1), epoch: 0 }); 3];
        assert_eq!(asked(&shared, 1), [(8, 2, 0, 0)]);
        assert!(matches!(locked(&told.events).pop_front(), Some(GroupEvent::OutOfRange(Partition(1)))));
        assert!(locked(&told.events).is_empty());
        begun.open(NextOffset(0));
        assert_eq!(asked(&shared, 1), [(8, 1, 0, 0), (8, 2, 0, 0)], "who opens it again has looked");
    }

    #[test]
    fn who_tells_of_an_election_long_past_is_not_believed() {
        let shared = Shared::of(2, Arc::default());
        let lane = shared.lane(1);
        lane.open(NextOffset(5));
        let leader = |node, epoch| Some(Leader { node: Node(node), epoch });
        let layout = Layout { id: Uuid::from_u128(7), leaders: vec![None, leader(2, 2)] };
        shared.take_over(layout, &BTreeMap::new());
        assert_eq!(asked(&shared, 1), [(7, 1, 5, 3)]);
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
