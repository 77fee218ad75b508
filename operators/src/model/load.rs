//! Makes the catalog: opens each model once to see what it takes and gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::store::{Fault, Found};
use super::{Backend, ModelError, ModelFile};
use crate::catalog::{BatchPolicy, Catalog, Limits, Listing, ModelIndex, NotFinite, Served};

/// What the configuration says of a model.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// Which output to serve, where the model has several.
    pub output: Option<String>,
    /// Whether NaN and infinities pass.
    pub not_finite: NotFinite,
    /// When a batch of it closes.
    pub batch: BatchPolicy,
    /// How long its rows and its runs may take.
    pub limits: Limits,
    /// The worker that is home to its device.
    pub home: usize,
}

/// The models of a process.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Every model that was found, served or not.
    pub catalog: Catalog,
    /// The files of the models that are served: what executors open.
    pub files: BTreeMap<ModelIndex, ModelFile>,
    /// What was found and is no model: for people. A model that is not served has its reason in the catalog.
    pub faults: Vec<Fault>,
}

/// Opens the live file of each model once, and lists what came of it. `settings` is asked for each model by its id.
///
/// A model that can't be loaded is listed with the reason and does not stop the others.
///
/// # Errors
///
/// If no model can be served at all, because of the [library](ModelError::Runtime) that runs them or of an execution
/// [provider](ModelError::Provider) that is required.
pub fn load_catalog(
    backend: &dyn Backend,
    found: Found,
    settings: impl Fn(&str) -> ModelSettings,
) -> Result<Loaded, ModelError> {
    let mut listings = Vec::new();
    let mut opened = BTreeMap::new();
    for mut file in found.files {
        let settings = settings(&file.id);
        file.output.clone_from(&settings.output);
        listings.push(list(backend, &file, &settings)?);
        opened.insert(file.id.clone(), file);
    }
    let mut faults = Vec::new();
    for fault in found.faults {
        let path = fault.path.display();
        let Some(id) = fault.id else {
            tracing::warn!(%path, reason = fault.reason, "passed over in the model folder");
            faults.push(fault);
            continue;
        };
        let reason = format!("{path}: {}", fault.reason);
        tracing::warn!(model = %id, reason, "model unavailable");
        listings.push(Listing::Unavailable { id, reason });
    }
    let catalog = Catalog::new(listings);
    let files = opened
        .into_iter()
        .filter_map(|(id, file)| Some((catalog.find(id.as_bytes())?, file)))
        .filter(|(model, _)| catalog.served(*model).is_some())
        .collect();
    Ok(Loaded { catalog, files, faults })
}

/// The listing of one model.
fn list(backend: &dyn Backend, file: &ModelFile, settings: &ModelSettings) -> Result<Listing, ModelError> {
    let signature = match backend.open(file) {
        Ok(model) => model.signature().clone(),
        Err(error @ (ModelError::Runtime(_) | ModelError::Provider { .. })) => return Err(error),
        Err(error) => {
            let reason = error.to_string();
            tracing::warn!(model = %file.id, reason, "model unavailable");
            return Ok(Listing::Unavailable { id: file.id.clone(), reason });
        }
    };
    tracing::info!(
        model = %file.id,
        version = %file.version,
        label = %file.label,
        row_shape = ?signature.row_shape,
        output = %signature.output,
        output_len = signature.output_len,
        providers = ?signature.providers,
        "model loaded"
    );
    Ok(Listing::Served(Arc::new(Served {
        id: file.id.clone(),
        version: file.version.clone(),
        signature,
        not_finite: settings.not_finite,
        batch: settings.batch,
        limits: settings.limits,
        home: settings.home,
    })))
}
