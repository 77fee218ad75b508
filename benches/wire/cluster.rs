//! Two processes of one worker each: the first sends blocks to the second through timely's own network threads.

use std::cell::OnceCell;
use std::fmt;
use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use operators::block::Block;
use operators::clock::{Clock as _, SystemClock};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tidemill::experiment::cpu::Stopwatch;
use timely::ExchangeData;
use timely::dataflow::InputHandle;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator as _;
use timely::dataflow::operators::{Input as _, Probe as _};
use timely::worker::Worker;

use crate::codec::Wire;

/// Blocks that are sent with one timestamp.
const BLOCKS: u64 = 16;

/// Timestamps that may be on their way.
const UNDER_WAY: u64 = 8;

/// Timestamps before the clock starts.
const WARM_UP: u64 = 10;

/// Numbers that cross while it runs, in rows of whatever length.
const NUMBERS: u64 = 10_000_000;

/// A block on its way to another process.
pub(crate) trait Crossing: ExchangeData + Clone {
    fn of(block: Arc<Block>) -> Self;
    fn block(&self) -> &Block;
}

/// As timely does it by itself.
impl Crossing for Arc<Block> {
    fn of(block: Arc<Block>) -> Self {
        block
    }

    fn block(&self) -> &Block {
        self
    }
}

/// A block that crosses as the bytes of an encoding, which timely's own sees as one field.
pub(crate) struct Packed<W> {
    block: Arc<Block>,
    /// Timely asks for the length first, and then for the bytes.
    bytes: OnceCell<Vec<u8>>,
    wire: PhantomData<fn() -> W>,
}

impl<W> Clone for Packed<W> {
    fn clone(&self) -> Self {
        Self { block: Arc::clone(&self.block), bytes: OnceCell::new(), wire: PhantomData }
    }
}

impl<W: Wire> Serialize for Packed<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.bytes.get_or_init(|| {
            let mut bytes = Vec::new();
            W::encode(&self.block, &mut bytes);
            bytes
        });
        serializer.serialize_bytes(bytes)
    }
}

impl<'de, W: Wire> Deserialize<'de> for Packed<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes<W>(PhantomData<fn() -> W>);

        impl<W: Wire> Visitor<'_> for Bytes<W> {
            type Value = Packed<W>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the bytes of a block")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Packed<W>, E> {
                Ok(Packed::of(Arc::new(W::decode(bytes))))
            }
        }

        deserializer.deserialize_bytes(Bytes(PhantomData))
    }
}

impl<W: Wire> Crossing for Packed<W> {
    fn of(block: Arc<Block>) -> Self {
        Self { block, bytes: OnceCell::new(), wire: PhantomData }
    }

    fn block(&self) -> &Block {
        &self.block
    }
}

/// What a process of a cluster is, and where both are.
pub(crate) struct Cluster {
    addresses: Vec<String>,
    /// The second process, in the first.
    second: Option<Child>,
}

impl Cluster {
    /// Starts the second process, of a cluster in which this one is the first.
    pub(crate) fn start(encoding: &str, floats: usize) -> io::Result<Self> {
        // Both are listened on at the same time, so that they differ.
        let free = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let addresses: io::Result<Vec<_>> =
            free.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect();
        let addresses = addresses?;
        drop(free);
        let second = Command::new(std::env::current_exe()?)
            .args(["--second", encoding, &floats.to_string()])
            .args(&addresses)
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { addresses, second: Some(second) })
    }

    /// This process is the second.
    pub(crate) fn join(addresses: &[String]) -> Self {
        Self { addresses: addresses.to_vec(), second: None }
    }
}

/// What came of it.
pub(crate) struct Crossed {
    /// CPU time of this process.
    pub(crate) cpu_nanos: u64,
    /// Of both processes.
    pub(crate) cpu_ns_per_row: f64,
    pub(crate) rows_per_second: f64,
}

/// Sends copies of the block, or takes them, as the one process or the other.
pub(crate) fn run<C: Crossing>(cluster: Cluster, block: &Arc<Block>) -> Crossed {
    let Cluster { addresses, second } = cluster;
    let process = usize::from(second.is_none());
    let config = timely::Config {
        communication: timely::CommunicationConfig::Cluster {
            threads: 1,
            process,
            addresses,
            report: false,
            zerocopy: false,
        },
        worker: timely::WorkerConfig::default(),
    };
    let sent = Arc::clone(block);
    let count = NUMBERS / (BLOCKS * block.columns[0].values.len() as u64).max(1);
    let guards = timely::execute(config, move |worker| rounds::<C>(worker, &sent, count));
    let guards = guards.expect("two processes find each other");
    let (seconds, mut cpu_nanos) =
        guards.join().pop().expect("there is one worker").expect("the worker does not panic");
    let own = cpu_nanos;
    if let Some(mut second) = second {
        let mut told = String::new();
        second.stdout.take().expect("it is piped").read_to_string(&mut told).expect("it tells its time");
        assert!(second.wait().expect("it ends").success(), "the second process failed");
        // Timely may have told before that it waits for the other.
        let nanos = told.lines().last().and_then(|line| line.parse::<u64>().ok());
        cpu_nanos += nanos.expect("it tells its time");
    }
    #[expect(clippy::cast_precision_loss, reason = "figures")]
    let rows = (count * BLOCKS * block.len() as u64) as f64;
    #[expect(clippy::cast_precision_loss, reason = "figures")]
    let cpu_ns_per_row = cpu_nanos as f64 / rows;
    Crossed { cpu_nanos: own, cpu_ns_per_row, rows_per_second: rows / seconds }
}

/// What one worker does in so many rounds: seconds, and nanoseconds of CPU time.
fn rounds<C: Crossing>(worker: &mut Worker, block: &Arc<Block>, count: u64) -> (f64, u64) {
    let mut input = InputHandle::new();
    let probe = worker.dataflow(|scope| {
        scope
            .input_from(&mut input)
            .unary::<timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _>(
                Exchange::new(|_: &C| 1),
                "Take",
                |_capability, _info| {
                    |input, _output| {
                        input.for_each(|_stamp, data| {
                            for block in data.drain(..) {
                                std::hint::black_box(block.block().len());
                            }
                        });
                    }
                },
            )
            .probe()
            .0
    });
    let clock = SystemClock::new();
    let sends = worker.index() == 0;
    let (mut begun, mut watch) = (clock.now(), Stopwatch::start());
    for round in 1..=WARM_UP + count {
        if round == WARM_UP + 1 {
            (begun, watch) = (clock.now(), Stopwatch::start());
        }
        if sends {
            (0..BLOCKS).for_each(|_| input.send(C::of(Arc::clone(block))));
        }
        input.advance_to(round);
        while probe.less_than(&round.saturating_sub(UNDER_WAY)) {
            worker.step_or_park(None);
        }
    }
    input.close();
    while !probe.done() {
        worker.step_or_park(None);
    }
    (clock.now().since(begun).as_secs_f64(), watch.nanos())
}
