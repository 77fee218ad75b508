//! Real models, through ONNX Runtime.
//!
//! The library is not linked but loaded, from `onnx.library` in the configuration or `ORT_DYLIB_PATH`, so that a Jetson can bring its
//! own with TensorRT. It is loaded once a process.
//!
//! A model is served if its inputs and outputs are tensors of numbers, and some axis of each output follows the batch. What the file does
//! not tell for certain, the axes of an output's row and which of them is the batch's, is measured by runs of zeros when the model is
//! opened. See `signature.rs` for what is read from the file, and `session.rs` for how rows are fed.
//!
//! A session belongs to one executor thread, has no threads of its own unless told, and never spins: more threads in a session made
//! small models up to three times slower, and idle ones burnt a core. On the CPU batches run at their exact size; see [`BucketRule`].

mod arena;
mod cancel;
mod environment;
mod external;
mod layout;
mod providers;
mod session;
mod signature;
mod tensorrt;

pub use environment::environment;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::ep::ExecutionProvider;
use ort::session::Session;
use ort::session::builder::{BuilderResult, SessionBuilder};
use ort::value::Outlet;

use self::environment::Runtime;
pub use self::providers::Provider;
use self::providers::{Engine, Registered};
use self::session::{OnnxModel, WARM_ROWS};
use self::signature::{Declared, Port};
use super::{Backend, Buckets, Model, ModelError, ModelFile, RunError, store};

/// The longest text of ONNX Runtime's that is passed on, in bytes.
const TEXT_MAX: usize = 512;

/// A model of one operator, to see that sessions can be made: `y = Relu(x)` over f32 [n, 1], in opset 17.
const PROBE: &[u8] = b"\x08\x08\x3a\x41\
    \x0a\x0c\x0a\x01x\x12\x01y\x22\x04Relu\
    \x12\x05probe\
    \x5a\x14\x0a\x01x\x12\x0f\x0a\x0d\x08\x01\x12\x09\x0a\x03\x12\x01n\x0a\x02\x08\x01\
    \x62\x14\x0a\x01y\x12\x0f\x0a\x0d\x08\x01\x12\x09\x0a\x03\x12\x01n\x0a\x02\x08\x01\
    \x42\x02\x10\x11";

/// How to run models.
#[derive(Clone, Debug)]
pub struct OnnxConfig {
    /// The library to load: else what `ORT_DYLIB_PATH` names, else the system's.
    pub library: Option<PathBuf>,
    /// The execution providers to try, in order. The CPU takes what is left, listed or not.
    pub providers: Vec<Provider>,
    /// Whether a model that would run on the CPU, wholly or in part, is refused.
    pub require_gpu: bool,
    /// The number of each GPU, in the order of the devices.
    pub devices: Vec<i32>,
    /// Whether TensorRT may compute in half precision.
    pub fp16: bool,
    /// Threads that a session computes with, the executor's included.
    pub intra_threads: usize,
    /// Whether sessions share one arena of the CPU's memory, rather than that each has its own.
    pub shared_arena: bool,
    /// Where TensorRT keeps the engines that it built. Without a folder it builds them at each start.
    pub engine_cache: Option<PathBuf>,
    /// The most rows of a batch: TensorRT's engines are built for one to this many.
    pub rows_max: usize,
    /// The sizes that batches are run at.
    pub buckets: BucketRule,
    /// The largest model file.
    pub bytes_max: u64,
    /// What is different for a model, by its id.
    pub models: BTreeMap<String, ModelOptions>,
}

/// What is different for a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelOptions {
    /// The providers to try instead.
    pub providers: Option<Vec<Provider>>,
    /// The most rows of a batch instead.
    pub rows_max: Option<usize>,
    /// The sizes that batches are run at instead.
    pub buckets: Option<BucketRule>,
}

/// How the sizes that batches are run at are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BucketRule {
    /// As suits the providers that took effect: powers of two for CUDA alone, which looks for an algorithm at each new size; for TensorRT
    /// any size that its engine was built for; on the CPU any.
    #[default]
    Auto,
    /// Any size.
    Off,
    /// These.
    Sizes(Vec<usize>),
}

impl BucketRule {
    /// The buckets of a model whose largest batch has `rows_max` rows, with these providers in effect.
    fn buckets(&self, effective: &[Provider], rows_max: usize) -> Buckets {
        match self {
            Self::Sizes(sizes) => Buckets::of(sizes.iter().copied()),
            // Beyond what an engine was built for, TensorRT would build another, which takes minutes.
            _ if effective.contains(&Provider::TensorRt) => Buckets::exact_up_to(rows_max),
            Self::Auto if effective.contains(&Provider::Cuda) => Buckets::powers(rows_max),
            Self::Auto | Self::Off => Buckets::exact(),
        }
    }
}

impl Default for OnnxConfig {
    fn default() -> Self {
        Self {
            library: None,
            providers: vec![Provider::TensorRt, Provider::Cuda, Provider::Cpu],
            require_gpu: false,
            devices: vec![0],
            fp16: false,
            intra_threads: 1,
            shared_arena: true,
            engine_cache: None,
            rows_max: 64,
            buckets: BucketRule::Auto,
            bytes_max: store::BYTES_MAX,
            models: BTreeMap::new(),
        }
    }
}

/// Opens models with ONNX Runtime.
#[derive(Debug)]
pub struct OnnxBackend {
    runtime: Runtime,
    config: OnnxConfig,
    /// Held while a session is made that may use a GPU: several made at once on one GPU have crashed.
    gpu: Mutex<()>,
    /// Whether each provider works here, as far as it was tried, or why not.
    tried: Mutex<BTreeMap<(Provider, i32), Result<(), String>>>,
}

impl OnnxBackend {
    /// Loads the library, unless this process has loaded it already, and sees that it runs.
    ///
    /// # Errors
    ///
    /// [`ModelError::Runtime`], if the library is absent, too old or no ONNX Runtime, or if the process has loaded another;
    /// [`ModelError::Provider`], if a GPU is required and no provider that is listed works.
    pub fn new(config: OnnxConfig) -> Result<Self, ModelError> {
        let runtime = environment::runtime(config.library.as_deref())?;
        let backend = Self { runtime, config, gpu: Mutex::default(), tried: Mutex::default() };
        backend.try_provider(Provider::Cpu, 0).map_err(ModelError::Runtime)?;
        if backend.config.require_gpu {
            for gpu in &backend.config.devices {
                let works = |provider| backend.works(provider, *gpu);
                let registered = providers::register_each(&backend.config.providers, true, works);
                if registered.effective.is_empty() {
                    return Err(no_gpu(&registered.failed));
                }
            }
        }
        Ok(backend)
    }

    /// Whether a provider works here on this GPU, or why not. A provider that does not is logged once: there are as many sessions as
    /// executors and models.
    fn works(&self, provider: Provider, gpu: i32) -> Result<(), String> {
        let mut tried = lock(&self.tried);
        if let Some(known) = tried.get(&(provider, gpu)) {
            return known.clone();
        }
        let found = self.try_provider(provider, gpu);
        if let Err(reason) = &found {
            tracing::warn!(%provider, gpu, reason, "execution provider did not take effect");
        }
        tried.insert((provider, gpu), found.clone());
        found
    }

    /// Makes a session with one provider. Some register well and fail only now: those whose driver or device is missing. With them on
    /// its list no model could be opened, not even for the CPU.
    fn try_provider(&self, provider: Provider, gpu: i32) -> Result<(), String> {
        let mut builder = self.plain_builder()?;
        providers::register(&mut builder, provider, gpu, &self.config, &Engine::default())?;
        commit(builder, PROBE).map(drop)
    }

    /// A session's options, and the providers that took effect on them.
    fn builder(
        &self,
        file: &ModelFile,
        wanted: &[Provider],
        gpu: i32,
        engine: &Engine,
    ) -> Result<(SessionBuilder, Vec<Provider>), ModelError> {
        let mut builder = self.plain_builder().map_err(|reason| load_error(file, reason))?;
        let Registered { effective, failed } =
            providers::register_each(wanted, self.config.require_gpu, |provider| {
                self.works(provider, gpu)?;
                providers::register(&mut builder, provider, gpu, &self.config, engine)
            });
        tracing::debug!(model = %file.id, ?effective, ?failed, "execution providers registered");
        if self.config.require_gpu {
            if effective.is_empty() {
                return Err(no_gpu(&failed));
            }
            builder = step(builder.with_disable_cpu_fallback()).map_err(|reason| load_error(file, reason))?;
        }
        Ok((builder, effective))
    }

    /// The options of every session.
    fn plain_builder(&self) -> Result<SessionBuilder, String> {
        let builder =
            Session::builder(&self.runtime.environment).map_err(|error| bounded(error.message()))?;
        let builder = step(builder.with_intra_threads(self.config.intra_threads))?;
        let builder = step(builder.with_intra_op_spinning(false))?;
        let builder = step(builder.with_inter_op_spinning(false))?;
        let shares = self.config.shared_arena && self.runtime.has_arena;
        let builder = if shares { step(builder.with_env_allocators())? } else { builder };
        // A pattern is kept for each batch size that was ever run, and batches come in all sizes.
        let builder = step(builder.with_memory_pattern(false))?;
        // Else a file of the library's own format would be read too, whatever it is named.
        step(builder.with_config_entry("session.load_model_format", "ONNX"))
    }

    /// What TensorRT has to know of a model before it is opened for it. Nothing, where the library has no TensorRT.
    fn engine(
        &self,
        file: &ModelFile,
        bytes: &[u8],
        rows_max: usize,
        gpu: i32,
    ) -> Result<Engine, ModelError> {
        if !ort::ep::TensorRT::is_available().unwrap_or(false) {
            return Ok(Engine::default());
        }
        let builder = self.plain_builder().map_err(|reason| load_error(file, reason))?;
        let session = commit(builder, bytes).map_err(|reason| load_error(file, reason))?;
        let declared = declared(&session, file)?;
        let versions = format!("{} {:?}", self.runtime.build, tensorrt::version());
        Ok(Engine::new(file, &declared, rows_max, gpu, &self.config, &versions))
    }
}

impl Backend for OnnxBackend {
    fn open(&self, file: &ModelFile) -> Result<Box<dyn Model>, ModelError> {
        self.open_on(file, 0)
    }

    fn open_on(&self, file: &ModelFile, device: usize) -> Result<Box<dyn Model>, ModelError> {
        let gpu = self.config.devices.get(device).copied().unwrap_or_default();
        let options = self.config.models.get(&file.id);
        let wanted = options.and_then(|options| options.providers.as_ref()).unwrap_or(&self.config.providers);
        let rows_max =
            options.and_then(|options| options.rows_max).unwrap_or(self.config.rows_max).max(WARM_ROWS[1]);
        let bytes = store::read(file, self.config.bytes_max)?;

        let _one_at_a_time = wanted.iter().any(|provider| provider.is_gpu()).then(|| lock(&self.gpu));
        let engine = if wanted.contains(&Provider::TensorRt) {
            self.engine(file, &bytes, rows_max, gpu)?
        } else {
            Engine::default()
        };
        let (builder, effective) = self.builder(file, wanted, gpu, &engine)?;
        let session = commit(builder, &bytes).map_err(|reason| load_error(file, reason))?;
        drop(bytes);

        let declared = declared(&session, file)?;
        let on_gpu = effective.iter().any(|provider| provider.is_gpu());
        let rule = options.and_then(|options| options.buckets.as_ref()).unwrap_or(&self.config.buckets);
        let buckets = rule.buckets(&effective, rows_max);
        let gpu_rows_max = on_gpu.then_some(rows_max);
        let model = OnnxModel::open(session, declared, &effective, file, buckets, gpu_rows_max)?;
        Ok(Box::new(model))
    }

    fn name(&self) -> String {
        format!("ONNX Runtime {}", self.runtime.version)
    }
}

/// Makes a session of a model's bytes, if they are all that there is of it.
fn commit(mut builder: SessionBuilder, bytes: &[u8]) -> Result<Session, String> {
    external::check(bytes).map_err(|refused| refused.reason().to_owned())?;
    builder.commit_from_memory(bytes).map_err(|error| bounded(error.message()))
}

fn declared(session: &Session, file: &ModelFile) -> Result<Declared, ModelError> {
    let ports = |outlets| <[Outlet]>::iter(outlets).map(Port::of).collect::<Vec<_>>();
    let (inputs, outputs) = (ports(session.inputs()), ports(session.outputs()));
    signature::declared(&inputs, &outputs, file).map_err(|reason| unsupported(file, reason))
}

fn step(result: BuilderResult) -> Result<SessionBuilder, String> {
    result.map_err(|error| bounded(error.message()))
}

fn no_gpu(failed: &[(Provider, String)]) -> ModelError {
    let names: Vec<&str> = failed.iter().map(|(provider, _)| provider.name()).collect();
    let reasons: Vec<String> =
        failed.iter().map(|(provider, reason)| format!("{provider}: {reason}")).collect();
    if failed.is_empty() {
        return ModelError::Provider { provider: "gpu".to_owned(), reason: "none is listed".to_owned() };
    }
    ModelError::Provider { provider: names.join(" or "), reason: reasons.join("; ") }
}

fn load_error(file: &ModelFile, reason: String) -> ModelError {
    ModelError::Load { path: file.path.display().to_string(), reason }
}

fn unsupported(file: &ModelFile, reason: String) -> ModelError {
    ModelError::Unsupported { id: file.id.clone(), reason }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn run_error(error: ort::Error) -> RunError {
    RunError(bounded(error.message()))
}

/// A text of the library's, on one line and of bounded length.
fn bounded(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|character: char| character.is_whitespace() || character.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > TEXT_MAX {
            line.truncate(line.floor_char_boundary(TEXT_MAX));
            line.push('…');
            break;
        }
    }
    line
}

/// Locks, also after a panic elsewhere: neither lock guards anything that a panic could leave half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_of_the_librarys_is_one_short_line(text in "(.|\n|é){0,1500}") {
            let line = bounded(&text);
            prop_assert!(line.len() <= TEXT_MAX + '…'.len_utf8());
            prop_assert!(!line.contains(char::is_control));
            if text.len() <= TEXT_MAX {
                let words = |text: &str| text.split(|character: char| character.is_whitespace() || character.is_control())
                    .filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
                prop_assert_eq!(words(&line), words(&text));
            }
        }
    }

    #[test]
    fn batches_are_filled_up_only_where_that_is_worth_something() {
        use Provider::{Cpu, Cuda, TensorRt};
        let auto = |effective: &[Provider]| BucketRule::Auto.buckets(effective, 20);
        assert_eq!(auto(&[Cpu]), Buckets::exact());
        assert_eq!(auto(&[Cuda, Cpu]), Buckets::powers(20));
        assert_eq!(auto(&[TensorRt, Cuda, Cpu]), Buckets::exact_up_to(20));
        assert_eq!(BucketRule::Off.buckets(&[Cuda, Cpu], 20), Buckets::exact());
        assert_eq!(BucketRule::Off.buckets(&[TensorRt, Cpu], 20), Buckets::exact_up_to(20));
        assert_eq!(BucketRule::Sizes(vec![8, 4]).buckets(&[Cpu], 20), Buckets::of([4, 8]));
    }

    #[test]
    fn a_gpu_that_is_missing_is_named_with_every_reason() {
        let failed =
            [(Provider::TensorRt, "not in this build".to_owned()), (Provider::Cuda, "no driver".to_owned())];
        assert_eq!(
            no_gpu(&failed).to_string(),
            "execution provider tensorrt or cuda is required and did not take effect: tensorrt: not in this build; cuda: no driver"
        );
        assert!(no_gpu(&[]).to_string().ends_with("none is listed"));
    }
}
