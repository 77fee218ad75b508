//! Topics of a point's own, and the requests in them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use operators::broker::kafka::KafkaBroker;
use operators::broker::{Broker as _, Class, Producer};
use operators::records::Records;
use tidemill::config::{self, Config, Sources};
use tidemill::load::{Load, LoadOptions, ModelRow};
use tidemill::surroundings::kafka_config;

use crate::failure::Failure;

/// Where this is a checkout of.
pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How long the broker lets a transaction wait that is being filled.
const PRELOAD_MAX: Duration = Duration::from_mins(10);

/// How long a plain writer may take to have everything acknowledged.
const WRITE_MAX: Duration = Duration::from_mins(1);

/// What all points share.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) bootstrap: String,
    pub(crate) sets: Vec<String>,
    pub(crate) under: Option<String>,
}

impl Setup {
    /// The same, with one more setting of the engine.
    pub(crate) fn with(&self, set: &str) -> Self {
        let sets = self.sets.iter().cloned().chain([set.to_owned()]).collect();
        Self { bootstrap: self.bootstrap.clone(), sets, under: self.under.clone() }
    }
}

/// Topics and a group of a point's own.
pub(crate) struct World {
    /// The configuration, which the engine is given as well.
    pub(crate) config: Config,
    /// What the engine is told on its command line.
    pub(crate) sets: Vec<String>,
    pub(crate) broker: KafkaBroker,
    /// Tells this point's run from all others.
    pub(crate) name: String,
}

impl World {
    pub(crate) fn new(setup: &Setup, point: &str) -> Result<Self, Failure> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-{}-{point}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let mut sets = vec![
            format!("kafka.bootstrap_servers={}", setup.bootstrap),
            format!("kafka.group={name}"),
            format!("kafka.instance={name}"),
            format!("models.path={ROOT}/models"),
            "log.filter=warn".to_owned(),
        ];
        for topic in ["requests", "results", "dlq", "events"] {
            sets.push(format!("topics.{topic}.name={name}.{topic}"));
        }
        sets.extend_from_slice(&setup.sets);
        let mut sources = Sources::of_process(Some(format!("{ROOT}/tidemill.toml").into()), sets.clone());
        sources.file_default = None;
        let config = config::load(&sources).map_err(Failure::Config)?.config;
        let broker = KafkaBroker::new(kafka_config(&config))?;
        let mut admin = broker.admin()?;
        for spec in config.topics.specs(false) {
            admin.create(&spec)?;
        }
        Ok(Self { config, sets, broker, name })
    }

    /// The number of partitions of the requests topic.
    pub(crate) fn partitions(&self) -> usize {
        usize::try_from(self.config.topics.requests.partitions).unwrap_or(0)
    }

    /// How many of so many requests each partition has: they are dealt out in turn.
    pub(crate) fn dealt(&self, requests: u64) -> Vec<u64> {
        let partitions = self.partitions() as u64;
        (0..partitions).map(|partition| (requests + partitions - 1 - partition) / partitions).collect()
    }

    /// A load of good requests for one model.
    #[expect(clippy::unused_self, reason = "it reads as what it is: a load for this world")]
    pub(crate) fn load(&self, model: &str, row_len: usize, requests: u64) -> Result<Load, Failure> {
        let models = vec![ModelRow::new(model, &[row_len])];
        Ok(Load::new(LoadOptions { requests, models, ..LoadOptions::default() })?)
    }

    /// Writes the next `count` requests of a load, for everybody to read at once, and waits until they are acknowledged.
    pub(crate) fn write(&self, load: &mut Load, count: u64) -> Result<(), Failure> {
        let mut writer = self.broker.writer()?;
        let topic = &self.config.topics.requests;
        let mut records = Records::default();
        for index in 0..count {
            if load.push_next(&mut records).is_none() {
                break;
            }
            let partition = self.dealt_to(index);
            writer.write(&topic.name, Some(partition), None, records.get(0), index)?;
            records.pop();
        }
        if !writer.flush(WRITE_MAX) {
            return Err(Failure::Late { what: "acknowledging the warm-up", limit: WRITE_MAX });
        }
        writer.acknowledged().into_iter().try_for_each(|(_, acknowledged)| Ok(acknowledged.map(drop)?))
    }

    /// The partition of the request at `index`.
    fn dealt_to(&self, index: u64) -> i32 {
        let partition = index % self.partitions().max(1) as u64;
        i32::try_from(partition).expect("a topic has fewer than 2^31 partitions")
    }

    /// Writes the rest of a load, from its request `first` on, in a transaction that is left open: nobody reads them before it is committed.
    pub(crate) fn preload(&self, mut load: Load, first: u64) -> Result<Preloaded, Failure> {
        let mut config = kafka_config(&self.config);
        config.transaction_timeout = PRELOAD_MAX;
        let mut producer = KafkaBroker::new(config)?.producer(&format!("{}-load", self.name))?;
        producer.begin()?;
        let topic = &self.config.topics.requests.name;
        let mut records = Records::default();
        for index in first.. {
            if load.push_next(&mut records).is_none() {
                break;
            }
            let partition = self.dealt_to(index);
            while let Err(error) = producer.send(topic, Some(partition), records.get(0)) {
                if error.class != Class::QueueFull {
                    return Err(error.into());
                }
                producer.drain(Duration::from_millis(100))?;
            }
            records.pop();
        }
        while !producer.drain(Duration::from_secs(1))? {}
        Ok(Preloaded { producer })
    }
}

/// Requests that wait for their commit.
pub(crate) struct Preloaded {
    producer: Box<dyn Producer>,
}

impl Preloaded {
    /// Lets every reader see the requests.
    pub(crate) fn commit(mut self) -> Result<(), Failure> {
        while let Err(error) = self.producer.commit() {
            if error.class != Class::Retriable {
                return Err(error.into());
            }
        }
        Ok(())
    }
}
