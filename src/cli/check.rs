//! `tidemill check`: the configuration in force, and whether models, broker and topics fit it.

mod report;

use operators::broker::{Admin, Class, TopicDescription};
use operators::dead_letter::Letterhead;
use operators::model::load::no_room;
use operators::model::{Backend, ModelError, Signature};

use super::context::Candidate;
use super::{CliError, Context, Exit};
use crate::config::{Config, LETTER_HEADERS_BYTES_MAX, Loaded, batch_bytes_max};
use crate::runtime::{RECORD_WIRE_OVERHEAD, open_bytes_max};
use crate::topics::differences;
use report::Report;

/// The least `max.message.bytes` of a topic with which every dead letter fits it, cut as far as one can be.
const LETTER_BYTES_MIN: usize = Letterhead::BYTES_MIN + RECORD_WIRE_OVERHEAD;

/// What `tidemill check` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show beside each setting what it is for.
    #[arg(long)]
    explain: bool,
    /// Compare topics with production settings.
    #[arg(long)]
    production: bool,
}

/// A model that was found.
#[derive(Debug)]
struct ModelSeen {
    id: String,
    state: Result<(String, Signature), String>,
}

/// A topic that was asked for.
#[derive(Debug)]
struct TopicSeen {
    name: String,
    found: Option<TopicDescription>,
}

/// Runs the command.
///
/// # Errors
///
/// If the configuration can't be used. Everything else that is wrong is part of the report.
pub fn run(args: &Args, context: &Context) -> Result<Exit, CliError> {
    let loaded = context.load()?;
    let mut report = Report::default();
    check_models(&loaded.config, context, &mut report);
    let exit = match check_broker(&loaded.config, args.production, context, &mut report) {
        Ok(()) => None,
        Err(error) => {
            report.faults.push(format!("broker: {error}"));
            Some(error.exit()).filter(|exit| *exit == Exit::Unreachable)
        }
    };
    let Loaded { settings, .. } = loaded;
    let text = if context.json { report.as_json(&settings) } else { report.as_text(&settings, args.explain) };
    context.print(&text)?;
    Ok(exit.unwrap_or(if report.faults.is_empty() { Exit::Done } else { Exit::Failed }))
}

/// Opens every model once.
fn check_models(config: &Config, context: &Context, report: &mut Report) {
    let surroundings = context.surroundings();
    let candidates = match surroundings.models(config) {
        Ok(candidates) => candidates,
        Err(error) => return report.faults.push(format!("models: {error}")),
    };
    if candidates.is_empty() {
        report.faults.push(format!("models: there is no model in {}", config.models.path.display()));
    }
    let configured = config.models.overrides.keys();
    for id in configured.filter(|id| !candidates.iter().any(|candidate| candidate.id == **id)) {
        report.faults.push(format!("model {id}: it is configured, and there is none of this id"));
    }
    let backend = match surroundings.backend(config) {
        Ok(backend) => backend,
        Err(error) => return report.faults.push(format!("models: {error}")),
    };
    report.backend = Some(backend.name());
    for candidate in candidates {
        let seen = open(&*backend, candidate, open_bytes_max(config));
        if let Err(reason) = &seen.state {
            report.faults.push(format!("model {}: {reason}", seen.id));
        }
        report.models.push(seen);
    }
}

fn open(backend: &dyn Backend, Candidate { id, file }: Candidate, open_bytes_max: Option<u64>) -> ModelSeen {
    let fits = |file| no_room(&file, open_bytes_max).map_or(Ok(file), Err);
    let opened = file.and_then(fits).and_then(|file| match backend.open(&file) {
        Ok(model) => Ok((file.version, model.signature().clone())),
        Err(ModelError::Unsupported { reason, .. }) => Err(reason),
        Err(error) => Err(error.to_string()),
    });
    ModelSeen { id, state: opened }
}

/// Asks the broker who it is, and compares its topics.
fn check_broker(
    config: &Config,
    production: bool,
    context: &Context,
    report: &mut Report,
) -> Result<(), CliError> {
    let broker = context.surroundings().broker(config)?;
    let mut admin = broker.admin()?;
    report.broker = Some(admin.identity()?);
    for spec in config.topics.specs(production) {
        let found = describe(&mut *admin, &spec.name)?;
        report.faults.extend(
            differences(&spec, found.as_ref()).iter().map(|difference| format!("topic {difference}")),
        );
        report.topics.push(TopicSeen { name: spec.name, found });
    }
    report.faults.extend(limits(config, &report.topics));
    Ok(())
}

/// A topic that may not be described is as good as absent, and said to be so.
fn describe(admin: &mut dyn Admin, topic: &str) -> Result<Option<TopicDescription>, CliError> {
    match admin.describe(topic) {
        Err(error) if error.class == Class::Unreachable => Err(error.into()),
        Err(error) => {
            tracing::warn!(topic, %error, "a topic could not be described");
            Ok(None)
        }
        Ok(found) => Ok(found),
    }
}

/// Limits of topics, as they are, that contradict those of the configuration.
fn limits(config: &Config, topics: &[TopicSeen]) -> Vec<String> {
    let bytes_max = |name: &str| {
        let found = topics.iter().find(|topic| topic.name == name)?.found.as_ref()?;
        found.config.get("max.message.bytes")?.parse::<usize>().ok()
    };
    let (taken, batch) = (config.records_bytes_max, batch_bytes_max(config));
    let letter = taken.saturating_add(LETTER_HEADERS_BYTES_MAX);
    let (requests, results, dlq) =
        (&config.topics.requests.name, &config.topics.results.name, &config.topics.dlq.name);
    let mut faults = Vec::new();
    let mut fault = |topic: &str, bytes: usize, what: String| {
        faults.push(format!("topic {topic}: max.message.bytes = {bytes} is less than {what}"));
    };
    if let Some(bytes) = bytes_max(requests).filter(|bytes| *bytes < taken) {
        fault(requests, bytes, format!("`records.bytes_max` = {taken}: the largest requests can't be sent"));
    }
    match bytes_max(dlq) {
        Some(bytes) if bytes < LETTER_BYTES_MIN => fault(
            dlq,
            bytes,
            format!(
                "any dead letter may need, which is {LETTER_BYTES_MIN}: one that is refused stops the engine"
            ),
        ),
        Some(bytes) if bytes < letter => fault(
            dlq,
            bytes,
            format!("`records.bytes_max` and headers = {letter}: the largest dead letters will be truncated"),
        ),
        _ => {}
    }
    for topic in [results, dlq] {
        if let Some(bytes) = bytes_max(topic).filter(|bytes| (*bytes as u64) < batch) {
            let what = format!(
                "the largest batch of the producer = {batch}: set `kafka.producer.batch.size` to {bytes} or less"
            );
            fault(topic, bytes, what);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Machine, Sources, load};

    /// The faults of topics with these limits: requests, results, dead letters.
    fn faults(sets: &[&str], bytes_max: [usize; 3]) -> Vec<String> {
        let machine = Machine { host: Some("h".into()), cores: 2, ..Machine::default() };
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        let config = load(&Sources { sets, machine, ..Sources::default() }).unwrap().config;
        let topics = [&config.topics.requests, &config.topics.results, &config.topics.dlq];
        let seen = topics.into_iter().zip(bytes_max).map(|(topic, bytes)| {
            let config = BTreeMap::from([("max.message.bytes".to_owned(), bytes.to_string())]);
            let found = Some(TopicDescription { partitions: 1, replication: 1, config });
            TopicSeen { name: topic.name.clone(), found }
        });
        limits(&config, &seen.collect::<Vec<_>>())
    }

    const SMALL: &str = "records.bytes_max=5000";
    const BATCH: &str = "kafka.producer.batch.size=9000";

    #[test]
    fn topics_that_take_what_they_are_sent_have_no_fault() {
        assert_eq!(faults(&[], [1_048_588, 1_048_588, 1_114_112]), [] as [&str; 0]);
        assert_eq!(
            faults(&[SMALL, BATCH], [5_000, 9_000, 5_000 + LETTER_HEADERS_BYTES_MAX]),
            [] as [&str; 0]
        );
    }

    #[test]
    fn a_dead_letter_topic_that_refuses_the_smallest_letters_is_told_from_one_that_truncates() {
        let found = faults(&[SMALL, BATCH], [5_000, 9_000, LETTER_BYTES_MIN]);
        assert!(found.len() == 1 && found[0].contains("truncated"), "{found:?}");
        let found = faults(&[SMALL, BATCH], [5_000, 9_000, LETTER_BYTES_MIN - 1]);
        assert!(found.len() == 1 && found[0].contains("stops the engine"), "{found:?}");
    }

    #[test]
    fn an_output_topic_takes_the_producers_batches() {
        let letter = 5_000 + LETTER_HEADERS_BYTES_MAX;
        let found = faults(&[SMALL, BATCH], [5_000, 8_999, letter]);
        assert!(found.len() == 1 && found[0].contains("inference.results"), "{found:?}");
        assert!(found[0].contains("`kafka.producer.batch.size` to 8999"), "{found:?}");
        // Also where the size is librdkafka's own.
        let found = faults(&[SMALL], [5_000, 1_000_000, letter]);
        assert!(found.len() == 1 && found[0].contains("inference.dlq"), "{found:?}");
    }
}
