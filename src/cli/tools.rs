//! `produce` and `audit`, given their broker, topics and models from the configuration.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use operators::broker::Broker;
use operators::catalog::NotFinite;
use operators::model::ModelFile;
use operators::model::load::no_room;

use super::{CliError, Context, Exit, audit, produce};
use crate::audit::{NoOracle, Oracle, OrtOracle, ResultKey};
use crate::config::{Config, Delivery, ResultKey as ConfiguredKey};
use crate::load::ModelRow;
use crate::runtime::{model_rows, open_bytes_max, open_models};

/// Runs `tidemill produce`.
///
/// # Errors
///
/// If the arguments can't be used, or the broker takes no more.
pub(super) fn produce(mut args: produce::Args, context: &Context) -> Result<Exit, CliError> {
    let config = context.load()?.config;
    let broker = context.surroundings().broker(&config)?;
    args.json |= context.json;
    // The rows of models are only needed to make requests up; a folder that can't be read is no reason not to send given ones.
    let known: Vec<ModelRow> = if args.needs_row_lens() {
        let models = open_models(&config, context)?;
        model_rows(&models.catalog)
    } else {
        Vec::new()
    };
    let requests = &config.topics.requests.name;
    let mut stdout = io::stdout().lock();
    produce::run(&args, &*broker, requests, &known, &*context.clock, &mut stdout)
        .map(Exit::of_code)
        .map_err(|failure| CliError::failed(Exit::of_code(failure.exit_code()), failure.to_string()))
}

/// Runs `tidemill audit`.
///
/// # Errors
///
/// If a topic does not exist, or a log can't be read.
pub(super) fn audit(mut args: audit::Args, context: &Context) -> Result<Exit, CliError> {
    let config = context.load()?.config;
    let broker: Arc<dyn Broker> = context.surroundings().broker(&config)?;
    args.json |= context.json;
    let mut oracle: Box<dyn Oracle> =
        if args.no_infer { Box::new(NoOracle) } else { Box::new(oracle(&config, context)?) };
    let mut stdout = io::stdout().lock();
    audit::run(&args, &*broker, &audit_settings(&config), &mut *oracle, &*context.clock, &mut stdout)
        .map(Exit::of_code)
        .map_err(|failure| CliError::failed(Exit::of_code(failure.exit_code()), failure.to_string()))
}

/// The models of the folder, run one row at a time outside of the engine.
pub(super) fn oracle(config: &Config, context: &Context) -> Result<OrtOracle, CliError> {
    let candidates = context.surroundings().models(config)?;
    let library = config.onnx.library.clone().or_else(|| std::env::var_os("ORT_DYLIB_PATH").map(Into::into));
    let library = library.ok_or_else(|| {
        CliError::failed(
            Exit::ModelsAbsent,
            "the audit runs each model again, and does not know ONNX Runtime",
        )
        .with_help("set `onnx.library`, or ORT_DYLIB_PATH, to the path of libonnxruntime; or give --no-infer")
    })?;
    let files: Vec<ModelFile> =
        candidates.iter().filter_map(|candidate| candidate.file.as_ref().ok().cloned()).collect();
    let mut oracle = OrtOracle::new(&library, files)
        .map_err(|error| CliError::failed(Exit::ModelsAbsent, error.to_string()))?;
    for candidate in &candidates {
        let reason = match &candidate.file {
            Ok(file) => no_room(file, open_bytes_max(config)),
            Err(reason) => Some(reason.clone()),
        };
        if let Some(reason) = reason {
            oracle.add_unavailable(&candidate.id, &reason);
        }
    }
    Ok(oracle)
}

/// What the audit takes from the configuration.
pub(super) fn audit_settings(config: &Config) -> audit::Settings {
    let allowed: BTreeSet<String> = config
        .models
        .overrides
        .keys()
        .filter(|id| config.not_finite(id) == NotFinite::Allow)
        .cloned()
        .collect();
    audit::Settings {
        requests: config.topics.requests.name.clone(),
        results: config.topics.results.name.clone(),
        dlq: config.topics.dlq.name.clone(),
        group: Some(config.kafka.group.clone()),
        duplicates_allowed: config.delivery == Delivery::AtLeastOnce,
        result_key: match config.results_key {
            ConfiguredKey::RequestId => ResultKey::RequestId,
            ConfiguredKey::RequestKey => ResultKey::RequestKey,
        },
        result_form: config.results_form.meant(),
        not_finite_allowed: allowed,
        record_bytes_max: Some(config.records_bytes_max),
        letter_bytes_max: None,
    }
}
