//! `tidemill check`: the configuration in force, and whether models, broker and topics fit it.

mod report;

use operators::broker::{Admin, Class, TopicDescription};
use operators::model::{Backend, ModelError, Signature};

use super::context::Candidate;
use super::{CliError, Context, Exit};
use crate::config::{Config, LETTER_HEADERS_BYTES_MAX, Loaded};
use crate::topics::differences;
use report::Report;

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
        let seen = open(&*backend, candidate);
        if let Err(reason) = &seen.state {
            report.faults.push(format!("model {}: {reason}", seen.id));
        }
        report.models.push(seen);
    }
}

fn open(backend: &dyn Backend, Candidate { id, file }: Candidate) -> ModelSeen {
    let opened = file.and_then(|file| match backend.open(&file) {
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
    let taken = config.records_bytes_max;
    let mut faults = Vec::new();
    if let Some(bytes) = bytes_max(&config.topics.requests.name).filter(|bytes| *bytes < taken) {
        faults.push(format!(
            "topic {}: max.message.bytes = {bytes} is less than `records.bytes_max` = {taken}: the largest requests can't be sent",
            config.topics.requests.name,
        ));
    }
    let letter = taken.saturating_add(LETTER_HEADERS_BYTES_MAX);
    if let Some(bytes) = bytes_max(&config.topics.dlq.name).filter(|bytes| *bytes < letter) {
        faults.push(format!(
            "topic {}: max.message.bytes = {bytes} is less than `records.bytes_max` and headers = {letter}: the largest dead letters will be truncated",
            config.topics.dlq.name,
        ));
    }
    faults
}
