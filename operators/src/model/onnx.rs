//! Real models, through ONNX Runtime.
//!
//! The library is not linked but loaded, from `onnx.library` in the configuration or `ORT_DYLIB_PATH`, so that a Jetson can bring its
//! own with TensorRT. It is loaded once a process.
//!
//! A model is served if it has one input, a tensor of f32 whose first axis alone is dynamic, and one f32 output to serve, whose first
//! axis follows the input's. All of that is read from the file; what the file does not tell for certain, the length of an output row
//! and that the output follows the batch, is measured by runs of zeros when the model is opened.
//!
//! A session belongs to one executor thread, has no threads of its own unless told, and never spins: more threads in a session made
//! small models up to three times slower, and idle ones burnt a core. Batches run at their exact size.

mod cancel;
mod environment;
mod external;
mod providers;
mod signature;

pub use environment::environment;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::ep::ExecutionProvider;
use ort::logging::LogLevel;
use ort::session::builder::{BuilderResult, SessionBuilder};
use ort::session::{OutputSelector, RunOptions, Session};
use ort::value::{Outlet, TensorRef};

use self::cancel::SharedOptions;
use self::environment::Runtime;
pub use self::providers::Provider;
use self::providers::{Engine, Registered};
use self::signature::{Declared, Port};
use super::{Backend, Cancel, Model, ModelError, ModelFile, RunError, Signature, store};

/// The longest text of ONNX Runtime's that is passed on, in bytes.
const TEXT_MAX: usize = 512;

/// The batch sizes that are run when a model is opened: two, to tell the batch axis from one that happens to be as long.
const WARM_ROWS: [usize; 2] = [1, 3];

/// The batch sizes that are run when a model is opened, the two that tell the batch axis first. A GPU prepares something for each size that it meets first: kernels
/// are searched, engines built. There each power of two is run, so that no request pays for that.
fn warm_sizes(gpu_rows_max: Option<usize>) -> Vec<usize> {
    let mut sizes = WARM_ROWS.to_vec();
    if let Some(max) = gpu_rows_max {
        let powers = (0..usize::BITS).map(|power| 1 << power).take_while(|rows| *rows < max);
        sizes.extend(powers.chain([max]).filter(|rows| !WARM_ROWS.contains(rows)));
    }
    sizes
}

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
    /// The number of the GPU.
    pub device: i32,
    /// Whether TensorRT may compute in half precision.
    pub fp16: bool,
    /// Threads that a session computes with, the executor's included.
    pub intra_threads: usize,
    /// Where TensorRT keeps the engines that it built. Without a folder it builds them at each start.
    pub engine_cache: Option<PathBuf>,
    /// The most rows of a batch: TensorRT's engines are built for one to this many.
    pub rows_max: usize,
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
}

impl Default for OnnxConfig {
    fn default() -> Self {
        Self {
            library: None,
            providers: vec![Provider::TensorRt, Provider::Cuda, Provider::Cpu],
            require_gpu: false,
            device: 0,
            fp16: false,
            intra_threads: 1,
            engine_cache: None,
            rows_max: 64,
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
    tried: Mutex<BTreeMap<Provider, Result<(), String>>>,
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
        backend.try_provider(Provider::Cpu).map_err(ModelError::Runtime)?;
        if backend.config.require_gpu {
            let registered =
                providers::register_each(&backend.config.providers, true, |provider| backend.works(provider));
            if registered.effective.is_empty() {
                return Err(no_gpu(&registered.failed));
            }
        }
        Ok(backend)
    }

    /// Whether a provider works here, or why not. A provider that does not is logged once: there are as many sessions as executors
    /// and models.
    fn works(&self, provider: Provider) -> Result<(), String> {
        let mut tried = lock(&self.tried);
        if let Some(known) = tried.get(&provider) {
            return known.clone();
        }
        let found = self.try_provider(provider);
        if let Err(reason) = &found {
            tracing::warn!(%provider, reason, "execution provider did not take effect");
        }
        tried.insert(provider, found.clone());
        found
    }

    /// Makes a session with one provider. Some register well and fail only now: those whose driver or device is missing. With them on
    /// its list no model could be opened, not even for the CPU.
    fn try_provider(&self, provider: Provider) -> Result<(), String> {
        let mut builder = self.plain_builder()?;
        providers::register(&mut builder, provider, &self.config, &Engine::default())?;
        commit(builder, PROBE).map(drop)
    }

    /// A session's options, and the providers that took effect on them.
    fn builder(
        &self,
        file: &ModelFile,
        wanted: &[Provider],
        engine: &Engine,
    ) -> Result<(SessionBuilder, Vec<Provider>), ModelError> {
        let mut builder = self.plain_builder().map_err(|reason| load_error(file, reason))?;
        let Registered { effective, failed } =
            providers::register_each(wanted, self.config.require_gpu, |provider| {
                self.works(provider)?;
                providers::register(&mut builder, provider, &self.config, engine)
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
        // A pattern is kept for each batch size that was ever run, and batches come in all sizes.
        let builder = step(builder.with_memory_pattern(false))?;
        // Else a file of the library's own format would be read too, whatever it is named.
        step(builder.with_config_entry("session.load_model_format", "ONNX"))
    }

    /// What TensorRT has to know of a model before it is opened for it. Nothing, where the library has no TensorRT.
    fn engine(&self, file: &ModelFile, bytes: &[u8], rows_max: usize) -> Result<Engine, ModelError> {
        if !ort::ep::TensorRT::is_available().unwrap_or(false) {
            return Ok(Engine::default());
        }
        let builder = self.plain_builder().map_err(|reason| load_error(file, reason))?;
        let session = commit(builder, bytes).map_err(|reason| load_error(file, reason))?;
        let declared = declared(&session, file)?;
        Ok(Engine::new(file, &declared, rows_max, &self.config, &self.runtime.build))
    }
}

impl Backend for OnnxBackend {
    fn open(&self, file: &ModelFile) -> Result<Box<dyn Model>, ModelError> {
        let options = self.config.models.get(&file.id);
        let wanted = options.and_then(|options| options.providers.as_ref()).unwrap_or(&self.config.providers);
        let rows_max =
            options.and_then(|options| options.rows_max).unwrap_or(self.config.rows_max).max(WARM_ROWS[1]);
        let bytes = store::read(file, self.config.bytes_max)?;

        let _one_at_a_time = wanted.iter().any(|provider| provider.is_gpu()).then(|| lock(&self.gpu));
        let engine = if wanted.contains(&Provider::TensorRt) {
            self.engine(file, &bytes, rows_max)?
        } else {
            Engine::default()
        };
        let (builder, effective) = self.builder(file, wanted, &engine)?;
        let session = commit(builder, &bytes).map_err(|reason| load_error(file, reason))?;
        drop(bytes);

        let declared = declared(&session, file)?;
        let mut model =
            OnnxModel::new(session, declared, &effective).map_err(|reason| load_error(file, reason))?;
        let on_gpu = effective.iter().any(|provider| provider.is_gpu());
        model.warm_up(file, on_gpu.then_some(rows_max))?;
        Ok(Box::new(model))
    }

    fn name(&self) -> String {
        format!("ONNX Runtime {}", self.runtime.version)
    }
}

/// A session, owned by one executor thread.
struct OnnxModel {
    session: Session,
    options: Arc<SharedOptions>,
    signature: Signature,
    row_len: usize,
    /// The shape of the input. Its first axis is that of the last run.
    shape: Vec<i64>,
}

impl OnnxModel {
    fn new(session: Session, declared: Declared, effective: &[Provider]) -> Result<Self, String> {
        let axes = std::iter::once(&1).chain(&declared.row_shape);
        let shape = axes
            .map(|axis| i64::try_from(*axis).map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()?;
        let mut options = RunOptions::new().map_err(|error| bounded(error.message()))?;
        // A run's failure is returned and told with the record. The library would log each as an error too.
        options.set_log_level(LogLevel::Fatal).map_err(|error| bounded(error.message()))?;
        let options = options.with_outputs(OutputSelector::no_default().with(&declared.output));
        let options = Arc::new(SharedOptions::new(options));
        let signature = Signature {
            input: declared.input,
            row_shape: declared.row_shape,
            output: declared.output,
            output_len: 0,
            providers: effective.iter().map(ToString::to_string).collect(),
        };
        let row_len = signature.row_len();
        Ok(Self { session, options, signature, row_len, shape })
    }

    /// Runs zeros, which also measures the output's rows, and makes a GPU's engine where there is one.
    fn warm_up(&mut self, file: &ModelFile, gpu_rows_max: Option<usize>) -> Result<(), ModelError> {
        let mut output_len = None;
        for rows in warm_sizes(gpu_rows_max) {
            let zeros = vec![0.0; rows * self.row_len];
            let found = self
                .infer(rows, &zeros, |shape, _| signature::output_len(rows, shape))
                .map_err(|error| {
                    load_error(file, format!("a run of {rows} rows of zeros failed: {}", error.0))
                })?
                .map_err(|reason| unsupported(file, reason))?;
            let known = *output_len.get_or_insert(found);
            if known != found {
                let reason =
                    format!("its output has rows of {known} numbers in one batch and {found} in another");
                return Err(unsupported(file, reason));
            }
            self.signature.output_len = found;
        }
        Ok(())
    }

    /// Runs the model, and gives the shape and the numbers of its output to `take`.
    fn infer<T>(
        &mut self,
        rows: usize,
        input: &[f32],
        take: impl FnOnce(&[i64], &[f32]) -> T,
    ) -> Result<T, RunError> {
        self.shape[0] = i64::try_from(rows).map_err(|error| RunError(error.to_string()))?;
        let input = TensorRef::from_array_view((&self.shape[..], input)).map_err(run_error)?;
        // Whoever cancelled the last run may have come too late for it.
        self.options.get().unterminate().map_err(run_error)?;
        let outputs =
            self.session.run_with_options(ort::inputs![input], self.options.get()).map_err(run_error)?;
        let (shape, floats) = outputs[0].try_extract_tensor::<f32>().map_err(run_error)?;
        Ok(take(shape, floats))
    }
}

impl Model for OnnxModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, rows: usize, input: &[f32], output: &mut Vec<f32>) -> Result<(), RunError> {
        assert_eq!(input.len(), rows * self.row_len, "a run has as many floats as its rows need");
        output.clear();
        if rows == 0 {
            return Ok(());
        }
        let output_len = self.signature.output_len;
        self.infer(rows, input, |shape, floats| match signature::output_len(rows, shape) {
            Ok(found) if found == output_len => {
                output.extend_from_slice(floats);
                Ok(())
            }
            Ok(found) => {
                Err(RunError(format!("its output has rows of {found} numbers, and {output_len} are due")))
            }
            Err(reason) => Err(RunError(reason)),
        })?
    }

    fn cancel(&self) -> Option<Arc<dyn Cancel>> {
        Some(Arc::clone(&self.options) as Arc<dyn Cancel>)
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
    signature::declared(&inputs, &outputs, file.output.as_deref()).map_err(|reason| unsupported(file, reason))
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
    fn on_a_gpu_every_power_of_two_up_to_the_largest_batch_is_run_before_the_first_request() {
        assert_eq!(warm_sizes(None), [1, 3]);
        assert_eq!(warm_sizes(Some(20)), [1, 3, 2, 4, 8, 16, 20]);
        assert_eq!(warm_sizes(Some(3)), [1, 3, 2]);
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
