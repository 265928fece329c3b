//! Sessions of one ONNX file: each is used by one worker at a time, and made when it is first needed.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

use ndarray::{Array2, Ix2};
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};

use super::runtime::{Backend, device};
use crate::{Error, Result};

/// Up to `limit` sessions.
pub(super) struct Pool {
    backend: &'static Backend,
    file: PathBuf,
    output: &'static str,
    /// Values of a row of the output.
    width: usize,
    cuda: bool,
    limit: usize,
    state: Mutex<State>,
    freed: Condvar,
}

/// Loading takes several times the memory of what is loaded: one at a time.
static LOADING: Mutex<()> = Mutex::new(());

#[derive(Default)]
struct State {
    idle: Vec<Session>,
    made: usize,
}

/// Named tensors of one run.
pub(super) type Inputs<'a> = Vec<(&'static str, SessionInputValue<'a>)>;

impl Pool {
    pub(super) fn new(
        backend: &'static Backend,
        file: PathBuf,
        (output, width): (&'static str, usize),
        cuda: bool,
        limit: usize,
    ) -> Self {
        let (limit, state) = (limit.max(1), Mutex::default());
        Pool { backend, file, output, width, cuda, limit, state, freed: Condvar::new() }
    }

    /// Makes one session now, so that what is wrong is known early.
    pub(super) fn warm(&self) -> Result<()> {
        let session = self.take()?;
        self.give(session);
        Ok(())
    }

    /// Runs a batch of `rows` on the next free session; waits while all are busy.
    ///
    /// # Errors
    /// The runtime's; [`Error::Input`] if a feature is not a number.
    pub(super) fn run(&self, inputs: Inputs<'_>, rows: usize) -> Result<Array2<f32>> {
        let mut session = self.take()?;
        let found = session
            .run(inputs)
            .and_then(|out| Ok(out[self.output].try_extract_array::<f32>()?.into_owned()))
            .map_err(|e| {
                internal(format!("{} on {}: {e}", self.file.display(), self.backend.name))
            });
        self.give(session);
        let found = found?
            .into_dimensionality::<Ix2>()
            .ok()
            .filter(|found| found.dim() == (rows, self.width))
            .ok_or_else(|| internal(format!("{} gave another shape", self.file.display())))?;
        if !found.iter().all(|x| x.is_finite()) {
            return Err(Error::input_hint(
                format!("{}: the network's features are not finite", self.file.display()),
                "the CLIP's weights are damaged or not those of its configuration",
            ));
        }
        Ok(found)
    }

    fn take(&self) -> Result<Session> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(session) = state.idle.pop() {
                return Ok(session);
            }
            if state.made < self.limit {
                state.made += 1;
                break;
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.make().inspect_err(|_| {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).made -= 1;
            self.freed.notify_one();
        })
    }

    fn give(&self, session: Session) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).idle.push(session);
        self.freed.notify_one();
    }

    fn make(&self) -> Result<Session> {
        let name = &self.backend.name;
        let broken = |e: ort::Error| {
            Error::input_hint(
                format!("{}: {name} cannot load it: {e}", self.file.display()),
                "the cached file may be damaged: delete it, and it is written again",
            )
        };
        let builder = Session::builder(&self.backend.environment).map_err(broken)?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::Level3);
        let mut builder = builder.map_err(|e| broken(e.into()))?;
        if self.backend.native {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let threads = (threads / self.limit).max(1);
            builder = builder.with_intra_threads(threads).map_err(|e| broken(e.into()))?;
        }
        if self.cuda {
            builder = builder
                .with_execution_providers([CUDA::default().build().error_on_failure()])
                .map_err(|e| no_cuda(&format!("{name} on CUDA: {e}")))?;
        }
        let _one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        builder.commit_from_file(&self.file).map_err(broken)
    }
}

/// Refuses CUDA where the runtime has none, before anything is read.
pub(super) fn check_cuda(backend: &Backend) -> Result<()> {
    if !backend.native {
        return Err(no_cuda("tract runs on the CPU only"));
    }
    match CUDA::is_available() {
        Ok(true) => Ok(()),
        _ => Err(no_cuda(&format!("this {} was built without CUDA", backend.name))),
    }
}

fn no_cuda(message: &str) -> Error {
    device(
        message,
        "`pip install onnxruntime-gpu` has a library with CUDA: set ORT_DYLIB_PATH to its file \
         onnxruntime/capi/libonnxruntime.so.1.* and use --ort native",
    )
}

fn internal(message: String) -> Error {
    Error::Tensor(candle_core::Error::Msg(message))
}
