//! Three logs in memory, and outcomes as a faultless engine would have written them: written here, without anything of the engine.

use std::collections::BTreeMap;
use std::sync::Mutex;

use operators::broker::{
    Admin, Broker, BrokerError, Class, Committed, Isolation, LogRange, LogRecord, Member, PlainProducer,
    Producer, RecordTime, TopicDescription, TopicSpec, Writer,
};
use operators::lease::{NextOffset, Offset, Partition};
use operators::records::Records;

use crate::audit::{Inputs, Lookup, Oracle};
use crate::load::{Expected, Load, LoadOptions, ModelRow};
use crate::request::Request;

pub(super) const TIMES: RecordTime = RecordTime { millis: 1_767_225_600_123, append: false };

/// A record that can be changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Rec {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Rec {
    pub(super) fn set(&mut self, name: &str, value: &str) {
        let header = self.headers.iter_mut().rev().find(|(other, _)| other == name.as_bytes());
        header.expect("the header is there").1 = Some(value.as_bytes().to_vec());
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_ref().unwrap()).unwrap()
    }

    /// The record as it would be read.
    pub(super) fn records(&self) -> Records {
        let mut records = Records::default();
        records.push(self.key.as_deref(), self.value.as_deref());
        self.headers.iter().for_each(|(name, value)| records.push_header(name, value.as_deref()));
        records
    }

    /// Changes the JSON of the value.
    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut serde_json::Value)) {
        let mut json = self.json();
        edit(&mut json);
        self.value = Some(serde_json::to_vec(&json).unwrap());
    }
}

/// A topic: records by partition and offset. Offsets may have gaps, as transactions leave them.
pub(super) type Topic = Vec<BTreeMap<i64, Rec>>;

/// The broker, and everything in it.
#[derive(Default)]
pub(super) struct World {
    pub(super) topics: Mutex<BTreeMap<String, Topic>>,
    pub(super) config: BTreeMap<String, String>,
    /// Where partitions of requests begin, if not at 0.
    pub(super) firsts: BTreeMap<Partition, Offset>,
}

/// The model of the tests: every output depends on every input, and on its place.
pub(super) struct Sums {
    pub(super) models: BTreeMap<String, usize>,
    pub(super) fails_on: Option<f32>,
}

impl Sums {
    pub(super) fn output(input: &[f32]) -> Vec<f32> {
        let places = (1_u16..).map(f32::from);
        vec![input.iter().sum(), input.iter().zip(places).map(|(value, place)| value * place).sum()]
    }
}

impl Oracle for Sums {
    fn lookup(&mut self, model_id: &str) -> Lookup {
        let row_len = self.models.get(model_id);
        row_len
            .map_or(Lookup::NoSuchModel, |&row_len| Lookup::Serves { inputs: Inputs::of_floats(&[row_len]) })
    }

    fn infer(&mut self, model_id: &str, input: &[f32]) -> Result<Vec<f32>, String> {
        assert_eq!(self.models[model_id], input.len(), "the audit runs only what can be run");
        if self.fails_on.is_some_and(|value| value.to_bits() == input[0].to_bits()) {
            return Err("it failed".to_owned());
        }
        Ok(Self::output(input))
    }
}

pub(super) fn models() -> Vec<ModelRow> {
    ["mlp-16:16", "tiny:1"].map(|model| model.parse().unwrap()).to_vec()
}

pub(super) fn oracle() -> Sums {
    let models = models().into_iter().map(|model| (model.id, model.row_len)).collect();
    Sums { models, fails_on: None }
}

impl World {
    /// A world in which every request of a load has come to the end that it must come to.
    pub(super) fn of(load: LoadOptions) -> Self {
        let mut topics = BTreeMap::from([
            ("requests".to_owned(), vec![BTreeMap::new(); 4]),
            ("results".to_owned(), vec![BTreeMap::new(); 3]),
            ("dlq".to_owned(), vec![BTreeMap::new(); 2]),
        ]);
        for (index, generated) in Load::new(load).unwrap().enumerate() {
            let partition = index % 4;
            let offset = i64::try_from(index / 4).unwrap();
            let view = generated.record();
            let request = Rec {
                key: view.key().map(<[u8]>::to_vec),
                value: view.value().map(<[u8]>::to_vec),
                headers: view
                    .headers()
                    .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
                    .collect(),
            };
            let (topic, outcome) = match generated.made.expected() {
                Expected::Result => ("results", result_of(&request, partition, offset)),
                Expected::DeadLetter(reason) => {
                    ("dlq", letter_of(&request, partition, offset, reason.name()))
                }
            };
            topics.get_mut("requests").unwrap()[partition].insert(offset, request);
            append(topics.get_mut(topic).unwrap(), index, outcome);
        }
        Self { topics: Mutex::new(topics), config: BTreeMap::new(), firsts: BTreeMap::new() }
    }

    /// The requests of a partition before an offset are deleted.
    pub(super) fn delete_before(&mut self, partition: usize, offset: i64) {
        let topics = self.topics.get_mut().unwrap();
        let log = &mut topics.get_mut("requests").unwrap()[partition];
        *log = log.split_off(&offset);
        self.firsts.insert(Partition(i32::try_from(partition).unwrap()), Offset(offset));
    }

    pub(super) fn append(&self, topic: &str, outcome: Rec) {
        append(self.topics.lock().unwrap().get_mut(topic).unwrap(), 0, outcome);
    }

    /// The places of every record of a topic.
    pub(super) fn places(&self, topic: &str) -> Vec<(usize, i64)> {
        let topics = self.topics.lock().unwrap();
        let partitions = topics[topic].iter().enumerate();
        partitions.flat_map(|(partition, log)| log.keys().map(move |&offset| (partition, offset))).collect()
    }

    pub(super) fn get(&self, topic: &str, place: (usize, i64)) -> Rec {
        self.topics.lock().unwrap()[topic][place.0][&place.1].clone()
    }

    pub(super) fn remove(&self, topic: &str, place: (usize, i64)) -> Rec {
        self.topics.lock().unwrap().get_mut(topic).unwrap()[place.0].remove(&place.1).unwrap()
    }

    pub(super) fn edit(&self, topic: &str, place: (usize, i64), edit: impl FnOnce(&mut Rec)) {
        edit(self.topics.lock().unwrap().get_mut(topic).unwrap()[place.0].get_mut(&place.1).unwrap());
    }
}

/// Appends with a gap of one offset now and then, where a control record would be.
fn append(topic: &mut Topic, spread: usize, record: Rec) {
    let partitions = topic.len();
    let log = &mut topic[spread % partitions];
    let next = log.keys().next_back().map_or(0, |last| last + 1 + i64::from(last % 5 == 0));
    log.insert(next, record);
}

/// The result of a request.
pub(super) fn result_of(request: &Rec, partition: usize, offset: i64) -> Rec {
    let read = Request::of(request.records().get(0)).unwrap();
    let value = serde_json::json!({
        "request_id": read.request_id, "model_id": read.model_id, "tenant_id": read.tenant_id,
        "output": Sums::output(&read.input), "latency_ms": 3.5, "inferred_at": "2026-01-01T00:00:01.5Z",
        "model_version": "0123456789abcdef", "origin": {"topic": "requests", "partition": partition, "offset": offset},
        "batch_size": 7, "queue_ms": 1.5, "inference_ms": 2.0,
    });
    let mut headers = vec![
        (b"model_id".to_vec(), Some(read.model_id.into_bytes())),
        (b"tenant_id".to_vec(), Some(read.tenant_id.into_bytes())),
    ];
    headers.extend(request.headers.iter().filter(|(name, _)| name == b"traceparent").cloned());
    let key = Some(read.request_id.into_bytes());
    Rec { key, value: Some(serde_json::to_vec(&value).unwrap()), headers }
}

/// The dead letter of a request.
pub(super) fn letter_of(request: &Rec, partition: usize, offset: i64, reason: &str) -> Rec {
    let mut letter = request.clone();
    let of_inference = ["inference_failed", "deadline_exceeded", "crashed"].contains(&reason);
    let (partition, offset, millis) = (partition.to_string(), offset.to_string(), TIMES.millis.to_string());
    for (name, value) in [
        ("inference.dlq.version", "1"),
        ("inference.dlq.reason", reason),
        ("inference.dlq.stage", if of_inference { "infer" } else { "decode" }),
        ("inference.dlq.message", "what happened"),
        ("inference.dlq.topic", "requests"),
        ("inference.dlq.partition", &partition),
        ("inference.dlq.offset", &offset),
        ("inference.dlq.timestamp", &millis),
        ("inference.dlq.timestamp_type", "create"),
        ("inference.dlq.attempt", "1"),
        ("inference.dlq.failed_at", "2026-01-01T00:00:01.5Z"),
        ("inference.dlq.group", "inference-workers"),
        ("original_topic", "requests"),
        ("reason", reason),
        ("failed_at", "2026-01-01T00:00:01.5Z"),
    ] {
        letter.headers.push((name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())));
    }
    letter
}

fn refused() -> BrokerError {
    let message = "the broker of this test only reads".to_owned();
    BrokerError { class: Class::Refused, operation: "use the broker", code: "TEST".to_owned(), message }
}

impl Broker for World {
    fn producer(&self, _transactional_id: &str) -> Result<Box<dyn Producer>, BrokerError> {
        Err(refused())
    }

    fn plain_producer(&self) -> Result<Box<dyn PlainProducer>, BrokerError> {
        Err(refused())
    }

    fn member(&self, _group: &str, _topic: &str) -> Result<Box<dyn Member>, BrokerError> {
        Err(refused())
    }

    fn writer(&self) -> Result<Box<dyn Writer>, BrokerError> {
        Err(refused())
    }

    fn admin(&self) -> Result<Box<dyn Admin>, BrokerError> {
        let counts =
            self.topics.lock().unwrap().iter().map(|(name, topic)| (name.clone(), topic.len())).collect();
        Ok(Box::new(Describer { counts, config: self.config.clone(), firsts: self.firsts.clone() }))
    }

    fn read_from(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        isolation: Isolation,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<NextOffset, BrokerError> {
        assert_eq!((isolation, from), (Isolation::ReadCommitted, Offset(0)));
        let topics = self.topics.lock().unwrap();
        let log = &topics[topic][usize::try_from(partition.0).unwrap()];
        for (&offset, record) in log {
            let mut records = Records::default();
            records.push(record.key.as_deref(), record.value.as_deref());
            for (name, value) in &record.headers {
                records.push_header(name, value.as_deref());
            }
            each(LogRecord { offset: Offset(offset), timestamp: TIMES, record: records.get(0) });
        }
        Ok(NextOffset(log.keys().next_back().map_or(0, |last| last + 1)))
    }
}

struct Describer {
    counts: BTreeMap<String, usize>,
    config: BTreeMap<String, String>,
    firsts: BTreeMap<Partition, Offset>,
}

impl Admin for Describer {
    fn describe(&mut self, topic: &str) -> Result<Option<TopicDescription>, BrokerError> {
        Ok(self.counts.get(topic).map(|&partitions| TopicDescription {
            partitions: i32::try_from(partitions).unwrap(),
            replication: 1,
            config: self.config.clone(),
        }))
    }

    fn create(&mut self, _topic: &TopicSpec) -> Result<(), BrokerError> {
        Err(refused())
    }

    fn delete(&mut self, _topic: &str) -> Result<(), BrokerError> {
        Err(refused())
    }

    fn committed(
        &mut self,
        _group: &str,
        _topic: &str,
        _partitions: &[Partition],
    ) -> Result<Vec<Option<Committed>>, BrokerError> {
        Err(refused())
    }

    fn range(&mut self, _topic: &str, partition: Partition) -> Result<LogRange, BrokerError> {
        let first = self.firsts.get(&partition).map_or(0, |first| first.0);
        Ok(LogRange { first: NextOffset(first), end: NextOffset(i64::MAX) })
    }

    fn since(&mut self, _topic: &str, _partition: Partition, _millis: i64) -> Result<Offset, BrokerError> {
        unreachable!("an audit is of all there is")
    }

    fn identity(&mut self) -> Result<String, BrokerError> {
        Err(refused())
    }
}
