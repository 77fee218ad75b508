//! The configuration as it is written: every section and key, each with the type of its value, nothing compared yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use operators::catalog::NotFinite;
use operators::codec::form::{Form, ResultForm};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::buckets::BucketsFile;
use super::capacity::CapacityFile;
use super::inputs::{Axes, BatchAxis, Number};
use super::secret::Property;
use super::tenants::{TenantsFile, Weight};
use super::units::{Auto, Bound, Count, Deadline, Interval, Size, SizeBound, Wait};

/// All of it. Every key is there, because `default.toml` has each.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub(super) delivery: Delivery,
    pub(super) workers: Count,
    pub(super) kafka: KafkaFile,
    pub(super) topics: TopicsFile,
    pub(super) commit: CommitFile,
    pub(super) epoch: EpochFile,
    pub(super) batch: BatchFile,
    pub(super) in_flight: InFlightFile,
    pub(super) records: RecordsFile,
    pub(super) outcome: OutcomeFile,
    pub(super) dead_letters: DeadLettersFile,
    pub(super) journal: JournalFile,
    pub(super) results: ResultsFile,
    pub(super) offsets: OffsetsFile,
    pub(super) stop: StopFile,
    pub(super) tenants: TenantsFile,
    pub(super) models: ModelsFile,
    pub(super) onnx: OnnxFile,
    pub(super) http: HttpFile,
    pub(super) capacity: CapacityFile,
    pub(super) log: LogFile,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KafkaFile {
    pub(super) bootstrap_servers: Servers,
    pub(super) group: Name,
    pub(super) instance: Instance,
    pub(super) start_timeout: Interval,
    pub(super) session_timeout: Interval,
    pub(super) transaction_timeout: Interval,
    pub(super) group_protocol: GroupProtocol,
    pub(super) producer_client: ClientChoice,
    pub(super) consumer_client: ClientChoice,
    pub(super) static_membership: bool,
    #[serde(default)]
    pub(super) consumer: BTreeMap<String, Property>,
    #[serde(default)]
    pub(super) producer: BTreeMap<String, Property>,
    #[serde(default)]
    pub(super) admin: BTreeMap<String, Property>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicsFile {
    pub(super) production: ProductionFile,
    pub(super) requests: TopicFile,
    pub(super) results: TopicFile,
    pub(super) dlq: TopicFile,
    pub(super) events: TopicFile,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProductionFile {
    pub(super) replication: Replication,
    pub(super) min_insync_replicas: Replication,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicFile {
    pub(super) name: Name,
    pub(super) partitions: Partitions,
    pub(super) replication: Replication,
    #[serde(default)]
    pub(super) config: BTreeMap<String, TopicSetting>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CommitFile {
    pub(super) interval: Interval,
    pub(super) records_max: Count1,
    pub(super) bytes_max: Size,
    pub(super) order: Order,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EpochFile {
    pub(super) interval: Interval,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchFile {
    pub(super) slo: Deadline,
    pub(super) size_max: Auto<BatchSize>,
    pub(super) delay_max: Auto<Wait>,
    pub(super) bytes_max: Size,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InFlightFile {
    pub(super) records_max: Count1,
    pub(super) bytes_max: Size,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordsFile {
    pub(super) bytes_max: Size,
    pub(super) deadline: Deadline,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutcomeFile {
    pub(super) deadline: Interval,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadLettersFile {
    pub(super) per_minute_max: Bound,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JournalFile {
    pub(super) dir: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResultsFile {
    pub(super) key: ResultKey,
    pub(super) form: ResultsForm,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OffsetsFile {
    pub(super) missing: OffsetsMissing,
    pub(super) out_of_range: OffsetsOutOfRange,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StopFile {
    pub(super) drain_timeout: Interval,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ModelsFile {
    pub(super) path: PathBuf,
    #[serde(flatten)]
    pub(super) by_id: BTreeMap<String, ModelOverridesFile>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelOverridesFile {
    #[serde(default)]
    pub(super) batch: BatchOverridesFile,
    pub(super) weight: Option<Weight>,
    pub(super) deadline: Option<Deadline>,
    pub(super) run_max: Option<Deadline>,
    pub(super) providers: Option<Vec<Provider>>,
    pub(super) buckets: Option<BucketsFile>,
    pub(super) devices: Option<Vec<Device>>,
    pub(super) not_finite: Option<NotFinite>,
    pub(super) output: Option<String>,
    #[serde(default)]
    pub(super) inputs: BTreeMap<String, InputFile>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputFile {
    pub(super) batch_axis: Option<BatchAxis>,
    pub(super) shape: Option<Axes>,
    pub(super) sample: Option<Axes>,
    pub(super) value: Option<Number>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchOverridesFile {
    pub(super) slo: Option<Deadline>,
    pub(super) size_max: Option<Auto<BatchSize>>,
    pub(super) delay_max: Option<Auto<Wait>>,
    pub(super) bytes_max: Option<Size>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnnxFile {
    pub(super) library: PathBuf,
    pub(super) providers: Vec<Provider>,
    pub(super) require_gpu: bool,
    pub(super) devices: Vec<Device>,
    pub(super) fp16: bool,
    pub(super) buckets: BucketsFile,
    pub(super) engine_cache: PathBuf,
    pub(super) intra_threads: Threads,
    pub(super) executors: Count,
    pub(super) open_bytes_max: SizeBound,
    pub(super) run_max: Deadline,
    pub(super) run_grace: Interval,
    pub(super) stuck_max: Stuck,
    pub(super) pace: PaceFile,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PaceFile {
    pub(super) fixed: Wait,
    pub(super) row: Wait,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpFile {
    pub(super) address: HttpAddress,
    pub(super) tenants_max: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogFile {
    pub(super) format: LogFormat,
    pub(super) filter: String,
}

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Each request ends once, together with its offset.
    ExactlyOnce,
    /// Each request ends at least once, and its offset is committed after that.
    AtLeastOnce,
}

/// How members of a group are coordinated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupProtocol {
    /// Among themselves, cooperatively.
    Classic,
    /// By the broker.
    Consumer,
}

/// Who speaks to the broker where records are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientChoice {
    /// Our own code where it can be, else the library.
    Auto,
    /// Our own code.
    Direct,
    /// The library.
    Librdkafka,
}

/// What is kept in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The outcomes of a partition.
    Partition,
    /// The outcomes of a key.
    Key,
    /// Nothing.
    None,
}

/// The key of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultKey {
    /// The request id.
    RequestId,
    /// The request's own key.
    RequestKey,
}

/// The form of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultsForm {
    /// JSON.
    Json,
    /// A raw tensor.
    Tensor,
    /// As a model server of the Open Inference Protocol answers.
    OpenInference,
    /// The same, with tensors behind the JSON.
    OpenInferenceBinary,
    /// That of its request.
    Request,
}

impl ResultsForm {
    /// The form as the engine and the audit know it.
    pub fn meant(self) -> ResultForm {
        match self {
            Self::Json => ResultForm::Always(Form::Json),
            Self::Tensor => ResultForm::Always(Form::Tensor),
            Self::OpenInference => ResultForm::Always(Form::OpenInference),
            Self::OpenInferenceBinary => ResultForm::Always(Form::OpenInferenceBinary),
            Self::Request => ResultForm::Request,
        }
    }
}

/// Where to begin in a partition without a committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsetsMissing {
    /// With its first record.
    Earliest,
    /// Nowhere: stop, and say which partition it is.
    Stop,
}

/// What to do when a committed offset is no longer in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsetsOutOfRange {
    /// Stop, and say what is missing.
    Stop,
}

/// An execution provider of ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// NVIDIA TensorRT.
    Tensorrt,
    /// NVIDIA CUDA.
    Cuda,
    /// The CPU.
    Cpu,
}

impl Provider {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensorrt => "tensorrt",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Makes a newtype whose value is checked when it is read.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident($inner:ty) from $raw:ty: $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub(super) struct $name(pub(super) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let check: fn($raw) -> Result<$inner, String> = $check;
                check(<$raw>::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
            }
        }
    };
}

checked! {
    /// A name of a topic or of a group, as Kafka allows it.
    Name(String) from String: |name| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(allowed) { Ok(name) } else { Err(format!("{name:?} is not a name: 1 to 249 of A-Z a-z 0-9 . _ -")) }
    }
}

checked! {
    /// A process of a group; empty for the host name.
    Instance(String) from String: |name| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.len() <= 249 && name.bytes().all(allowed) { Ok(name) } else { Err(format!("{name:?} is not a name: at most 249 of A-Z a-z 0-9 . _ -")) }
    }
}

checked! {
    /// `host:port`, several separated by commas.
    Servers(String) from String: |servers| {
        let is_server = |server: &str| {
            let port = server.trim().rsplit_once(':').map(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            port.unwrap_or(false)
        };
        if servers.split(',').all(is_server) { Ok(servers) } else { Err(format!("{servers:?} is not a list of servers: write \"host:port\", several separated by commas")) }
    }
}

checked! {
    /// Where to listen, or `None` for nowhere.
    HttpAddress(Option<String>) from String: |address| {
        let port = address.rsplit_once(':').map(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        match (address.as_str(), port) {
            ("off", _) => Ok(None),
            (_, Some(true)) => Ok(Some(address)),
            _ => Err(format!("{address:?} is not an address: write \"127.0.0.1:9464\", or \"off\"")),
        }
    }
}

checked! {
    /// A number of partitions.
    Partitions(i32) from i64: |count| match i32::try_from(count) {
        Ok(count) if (1..=100_000).contains(&count) => Ok(count),
        _ => Err(format!("{count} is not a number of partitions from 1 to 100000")),
    }
}

checked! {
    /// A number of copies.
    Replication(i32) from i64: |count| match i32::try_from(count) {
        Ok(count) if (1..=100).contains(&count) => Ok(count),
        _ => Err(format!("{count} is not a number of copies from 1 to 100")),
    }
}

checked! {
    /// Rows of a batch.
    BatchSize(usize) from i64: |rows| match usize::try_from(rows) {
        Ok(rows) if (1..=65_536).contains(&rows) => Ok(rows),
        _ => Err(format!("{rows} is not a number of rows from 1 to 65536")),
    }
}

checked! {
    /// The number of a GPU.
    Device(i32) from i64: |device| match i32::try_from(device) {
        Ok(device) if (0..=255).contains(&device) => Ok(device),
        _ => Err(format!("{device} is not the number of a GPU, from 0 to 255")),
    }
}

checked! {
    /// Threads inside a run.
    Threads(usize) from i64: |threads| match usize::try_from(threads) {
        Ok(threads) if (1..=1024).contains(&threads) => Ok(threads),
        _ => Err(format!("{threads} is not a number of threads from 1 to 1024")),
    }
}

checked! {
    /// A number of executors that may be left behind.
    Stuck(usize) from i64: |executors| match usize::try_from(executors) {
        Ok(executors) if executors <= 1024 => Ok(executors),
        _ => Err(format!("{executors} is not a number of executors from 0 to 1024")),
    }
}

checked! {
    /// A number of records.
    Count1(usize) from i64: |records| match usize::try_from(records) {
        Ok(records) if records > 0 => Ok(records),
        _ => Err(format!("{records} is not a number of records of at least 1")),
    }
}

checked! {
    /// The value of a topic's configuration key.
    TopicSetting(String) from toml::Value: |value| match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(truth) => Ok(truth.to_string()),
        _ => Err("expected a text, a number, true or false".to_owned()),
    }
}
