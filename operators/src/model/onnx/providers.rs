//! Execution providers: what a session's nodes run on.

use std::fmt;
use std::path::{Path, PathBuf};

use ort::ep;
use ort::session::builder::SessionBuilder;
use serde::{Deserialize, Serialize};

use super::OnnxConfig;
use super::signature::{Declared, Input};
use crate::model::ModelFile;

/// What can run a model's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// NVIDIA TensorRT: compiles the model for the GPU, which takes from seconds to minutes the first time.
    TensorRt,
    /// NVIDIA CUDA. List it after TensorRT: it takes the nodes that TensorRT can't.
    Cuda,
    /// The CPU, which takes whatever is left.
    Cpu,
}

impl Provider {
    /// The name in the configuration, in logs and in a model's signature.
    pub fn name(self) -> &'static str {
        match self {
            Self::TensorRt => "tensorrt",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        }
    }

    /// Whether it is a GPU's.
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::TensorRt | Self::Cuda)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What came of registering providers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Registered {
    /// Those that took effect, in order.
    pub(super) effective: Vec<Provider>,
    /// Those that did not, and why.
    pub(super) failed: Vec<(Provider, String)>,
}

/// Tries `wanted` in order with `register`. What comes after the CPU would never get a node, and is not tried; without `gpu_only` the
/// CPU is last even where it is not listed, because ONNX Runtime puts it there.
pub(super) fn register_each(
    wanted: &[Provider],
    gpu_only: bool,
    mut register: impl FnMut(Provider) -> Result<(), String>,
) -> Registered {
    let mut registered = Registered::default();
    for provider in wanted.iter().copied().take_while(|provider| provider.is_gpu()) {
        match register(provider) {
            Ok(()) => registered.effective.push(provider),
            Err(reason) => registered.failed.push((provider, reason)),
        }
    }
    if !gpu_only {
        registered.effective.push(Provider::Cpu);
    }
    registered
}

/// Registers one provider on a session's options. It is asked for by itself, because `with_execution_providers` hides failures.
///
/// The CPU needs no registration; `ort`'s would turn its arena off.
pub(super) fn register(
    builder: &mut SessionBuilder,
    provider: Provider,
    gpu: i32,
    config: &OnnxConfig,
    engine: &Engine,
) -> Result<(), String> {
    let dispatch = match provider {
        Provider::TensorRt => engine.tensor_rt(gpu, config).build(),
        Provider::Cuda => ep::CUDA::default()
            .with_device_id(gpu)
            // Exhaustive search, the default, makes the first run of each batch size take seconds.
            .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
            .build(),
        Provider::Cpu => return Ok(()),
    };
    dispatch.register(builder).map_err(|error| super::bounded(error.message()))
}

/// What TensorRT has to know to build its engine for a model once, and to find it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Engine {
    /// The shapes of the fewest, the usual and the most rows: without them it builds anew for each batch size that it has not seen.
    profile: Option<[String; 3]>,
    /// The folder of its engines, which no other model, version or setting shares.
    cache: Option<PathBuf>,
}

impl Engine {
    /// The engine of a model whose largest batch has `rows_max` rows, built by libraries of these versions.
    pub(super) fn new(
        file: &ModelFile,
        declared: &Declared,
        rows_max: usize,
        gpu: i32,
        config: &OnnxConfig,
        versions: &str,
    ) -> Self {
        let profile = |rows: usize| {
            let inputs: Option<Vec<String>> = declared
                .inputs
                .iter()
                .map(|input| Some(format!("{}:{}", input.spec.name, shape(input, rows)?)))
                .collect();
            Some(inputs?.join(","))
        };
        let profile = profile(1).zip(profile(rows_max)).map(|(fewest, most)| [fewest, most.clone(), most]);
        let folder = |root: &Path| {
            let precision = if config.fp16 { "fp16" } else { "fp32" };
            // A word that is safe as a file's name, whatever libraries say of themselves.
            let made_for = format!("{versions}{profile:?}");
            let made_for = &blake3::hash(made_for.as_bytes()).to_hex()[..8];
            let key = format!("{}-{precision}-{rows_max}-device{gpu}-{made_for}", file.version);
            root.join(&file.id).join(key)
        };
        let cache = config.engine_cache.as_deref().map(folder);
        Self { profile, cache }
    }

    fn tensor_rt(&self, gpu: i32, config: &OnnxConfig) -> ep::TensorRT {
        let mut options = ep::TensorRT::default().with_device_id(gpu).with_fp16(config.fp16);
        if let Some([fewest, usual, most]) = &self.profile {
            options = options
                .with_profile_min_shapes(fewest)
                .with_profile_opt_shapes(usual)
                .with_profile_max_shapes(most);
        }
        let Some(cache) = &self.cache else { return options };
        if let Err(error) = std::fs::create_dir_all(cache) {
            tracing::warn!(path = %cache.display(), %error, "no engine cache: engines are built at each start");
            return options;
        }
        options
            .with_engine_cache(true)
            .with_engine_cache_path(cache.display())
            .with_timing_cache(true)
            .with_timing_cache_path(cache.display())
    }
}

/// The axes of an input of so many rows, as TensorRT writes them. `None` where some stay open: there it has to see the shapes.
fn shape(input: &Input, rows: usize) -> Option<String> {
    let mut axes = input.sample.clone().or_else(|| input.spec.fixed())?;
    if let Some(axis) = input.spec.batch_axis {
        axes.insert(axis, rows);
    }
    Some(axes.iter().map(usize::to_string).collect::<Vec<_>>().join("x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(provider: Provider) -> Result<(), String> {
        Err(format!("no {provider} here"))
    }

    #[test]
    fn providers_that_fail_leave_the_others_and_their_order() {
        use Provider::{Cpu, Cuda, TensorRt};
        let only_cuda = |provider| if provider == Cuda { Ok(()) } else { refuse(provider) };
        let registered = register_each(&[TensorRt, Cuda, Cpu], false, only_cuda);
        assert_eq!(registered.effective, [Cuda, Cpu]);
        assert_eq!(registered.failed, [(TensorRt, "no tensorrt here".to_owned())]);
    }

    #[test]
    fn the_cpu_is_always_last_unless_a_gpu_is_required() {
        use Provider::{Cpu, Cuda};
        assert_eq!(register_each(&[], false, refuse).effective, [Cpu]);
        assert_eq!(register_each(&[Cuda], false, |_| Ok(())).effective, [Cuda, Cpu]);
        assert_eq!(register_each(&[Cpu, Cuda], false, |_| Ok(())).effective, [Cpu]);
        assert_eq!(register_each(&[Cuda, Cpu], true, |_| Ok(())).effective, [Cuda]);
        assert_eq!(register_each(&[Cuda, Cpu], true, refuse).effective, []);
    }

    #[test]
    fn an_engine_is_found_again_only_by_the_same_model_and_settings() {
        let file = |version: &str| ModelFile {
            id: "cnn".into(),
            label: String::new(),
            version: version.into(),
            path: "cnn.onnx".into(),
            bytes: 1,
            output: None,
            inputs: std::collections::BTreeMap::new(),
        };
        let mut spec = crate::model::Signature::of_floats(&[6, 64], 1).inputs.remove(0);
        spec.name = "x".to_owned();
        let input = Input { spec, value: None, sample: None };
        let declared = Declared { inputs: vec![input], outputs: Vec::new(), rows_fixed: None };
        let config = OnnxConfig { engine_cache: Some("/cache".into()), ..OnnxConfig::default() };
        let half = OnnxConfig { fp16: true, ..config.clone() };
        let engine = |version, rows_max, config, runtime| {
            Engine::new(&file(version), &declared, rows_max, 0, config, runtime)
        };
        let first = engine("a", 32, &config, "1.31.1");
        assert_eq!(first, engine("a", 32, &config, "1.31.1"));
        assert_eq!(
            first.profile,
            Some(["x:1x6x64".to_owned(), "x:32x6x64".to_owned(), "x:32x6x64".to_owned()])
        );
        assert!(first.cache.as_ref().unwrap().starts_with("/cache/cnn"));
        let others = [
            engine("b", 32, &config, "1.31.1"),
            engine("a", 64, &config, "1.31.1"),
            engine("a", 32, &half, "1.31.1"),
            engine("a", 32, &config, "1.32.0"),
        ];
        assert!(others.iter().all(|other| other.cache != first.cache));
    }
}
