//! Topics of a point's own, and the requests in them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use operators::broker::kafka::KafkaBroker;
use operators::broker::{Broker as _, Class, Producer, TopicSpec};
use operators::records::Records;

use super::Failure;
use super::system::System;
use crate::config::{self, Config, Sources};
use crate::load::{Load, LoadOptions, ModelRow};
use crate::surroundings::kafka_config;

/// How long the broker lets a transaction wait that is being filled.
const PRELOAD_MAX: Duration = Duration::from_mins(10);

/// How long a plain writer may take to have everything acknowledged.
const WRITE_MAX: Duration = Duration::from_mins(1);

/// What all points share.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What does the job.
    pub system: System,
    /// The configuration file that settings stand over.
    pub file: Option<PathBuf>,
    /// Settings, the broker's address and the folder of models among them.
    pub sets: Vec<String>,
    /// Whether topics stay in the broker after a measurement.
    pub keeps_topics: bool,
}

impl Setup {
    /// The same, with one more setting.
    pub fn with(&self, set: &str) -> Self {
        let sets = self.sets.iter().cloned().chain([set.to_owned()]).collect();
        Self { sets, ..self.clone() }
    }
}

/// Topics and a group of a point's own.
pub struct World {
    /// The configuration, which the engine is given as well.
    pub config: Config,
    /// What the engine is told on its command line.
    pub sets: Vec<String>,
    /// The broker.
    pub broker: KafkaBroker,
    /// Tells this point's run from all others.
    pub name: String,
    /// The load, but for its length.
    pub options: LoadOptions,
    /// The model that it is for.
    pub model: ModelRow,
    keeps_topics: bool,
}

impl World {
    /// Makes topics and a group for a load, whose first model is the one that counts.
    ///
    /// # Errors
    ///
    /// If the settings can't be used, or the topics can't be made.
    pub fn new(setup: &Setup, point: &str, options: LoadOptions) -> Result<Self, Failure> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-{}-{point}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let mut sets = vec!["log.filter=warn".to_owned()];
        sets.extend_from_slice(&setup.sets);
        sets.extend([format!("kafka.group={name}"), format!("kafka.instance={name}")]);
        for topic in ["requests", "results", "dlq", "events"] {
            sets.push(format!("topics.{topic}.name={name}.{topic}"));
        }
        let sources = Sources::of_process(setup.file.clone(), sets.clone());
        let config = config::load(&sources).map_err(Failure::Config)?.config;
        let broker = KafkaBroker::new(kafka_config(&config))?;
        let mut admin = broker.admin()?;
        for spec in config.topics.specs(false) {
            admin.create(&spec)?;
        }
        let model = options.models.first().cloned();
        let model = model.ok_or_else(|| Failure::Unexpected("the load has no model".to_owned()))?;
        Ok(Self { config, sets, broker, name, options, model, keeps_topics: setup.keeps_topics })
    }

    /// Deletes the topics, unless they are to be kept: a measurement of large requests leaves a gigabyte, and there may be many of them.
    ///
    /// # Errors
    ///
    /// If the broker refuses.
    pub fn end(self) -> Result<(), Failure> {
        if self.keeps_topics {
            return Ok(());
        }
        let mut admin = self.broker.admin()?;
        self.config.topics.specs(false).into_iter().try_for_each(|TopicSpec { name: topic, .. }| {
            admin.delete(&topic).map_err(|source| Failure::Leftover { topic, source })
        })
    }

    /// The same for good requests of a model with an input of one axis.
    ///
    /// # Errors
    ///
    /// As [`World::new`].
    pub fn of_model(setup: &Setup, point: &str, model: &str, row_len: usize) -> Result<Self, Failure> {
        let models = vec![ModelRow::new(model, &[row_len])];
        Self::new(setup, point, LoadOptions { models, ..LoadOptions::default() })
    }

    /// The number of partitions of the requests topic.
    pub fn partitions(&self) -> usize {
        usize::try_from(self.config.topics.requests.partitions).unwrap_or(0)
    }

    /// How many of so many requests each partition has: they are dealt out in turn.
    pub fn dealt(&self, requests: u64) -> Vec<u64> {
        let partitions = self.partitions() as u64;
        (0..partitions).map(|partition| (requests + partitions - 1 - partition) / partitions).collect()
    }

    /// The load, of so many requests.
    ///
    /// # Errors
    ///
    /// If there can be none of its options.
    pub fn load(&self, requests: u64) -> Result<Load, Failure> {
        Ok(Load::new(LoadOptions { requests, ..self.options.clone() })?)
    }

    /// Writes the next `count` requests of a load, for everybody to read at once, and waits until they are acknowledged.
    ///
    /// # Errors
    ///
    /// If they are not within a minute.
    pub fn write(&self, load: &mut Load, count: u64) -> Result<(), Failure> {
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
    ///
    /// # Errors
    ///
    /// If one can't be written.
    pub fn preload(&self, mut load: Load, first: u64) -> Result<Preloaded, Failure> {
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
pub struct Preloaded {
    producer: Box<dyn Producer>,
}

impl Preloaded {
    /// Lets every reader see the requests.
    ///
    /// # Errors
    ///
    /// If the broker does not commit.
    pub fn commit(mut self) -> Result<(), Failure> {
        while let Err(error) = self.producer.commit() {
            if error.class != Class::Retriable {
                return Err(error.into());
            }
        }
        Ok(())
    }
}
