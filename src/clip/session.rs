//! Sessions of one ONNX file: each is used by one worker at a time, and made when it is first needed.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

use ndarray::Array2;
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::Outlet;

use super::runtime::{Backend, device};
use crate::error::nearest;
use crate::{Error, Result};

/// The sessions of one file, up to a limit.
pub(super) struct Pool {
    backend: &'static Backend,
    pub(super) file: PathBuf,
    /// The output's name.
    pub(super) output: String,
    cuda: bool,
    limit: usize,
    /// Threads of a session.
    threads: usize,
    state: Mutex<State>,
    freed: Condvar,
}

/// Loading takes tract several times the memory of what is loaded: one at a time.
static LOADING: Mutex<()> = Mutex::new(());

#[derive(Default)]
struct State {
    idle: Vec<Session>,
    made: usize,
}

/// Named tensors of one run.
pub(super) type Inputs<'a> = Vec<(Cow<'a, str>, SessionInputValue<'a>)>;

impl Pool {
    /// ONNX Runtime spreads a batch over all threads, and one session holds the weights once. tract runs on
    /// the thread that calls it: `workers` sessions run side by side.
    pub(super) fn new(
        backend: &'static Backend,
        file: PathBuf,
        output: &str,
        cuda: bool,
        workers: usize,
    ) -> Self {
        let workers = workers.max(1);
        let (limit, threads) = if backend.native { (1, workers) } else { (workers, 1) };
        let output = output.to_owned();
        let (state, freed) = Default::default();
        Pool { backend, file, output, cuda, limit, threads, state, freed }
    }

    /// Makes one session now, so that what is wrong is known early.
    pub(super) fn warm(&self) -> Result<()> {
        let session = self.take()?;
        self.give(session);
        Ok(())
    }

    /// The names of the input and of the output that are asked for: the first ones where none are.
    ///
    /// # Errors
    /// [`Error::Input`] for a name that the network does not have.
    pub(super) fn names(&self, asked: [Option<&str>; 2]) -> Result<[String; 2]> {
        let session = self.take()?;
        let of = |outlets: &[Outlet]| outlets.iter().map(|o| o.name().to_owned()).collect();
        let known: [Vec<String>; 2] = [of(session.inputs()), of(session.outputs())];
        self.give(session);
        let pick = |i: usize| match (asked[i], known[i].first()) {
            (None, Some(first)) => Ok(first.clone()),
            (Some(name), _) if known[i].iter().any(|k| k == name) => Ok(name.to_owned()),
            (name, _) => {
                let (file, what) = (self.file.display(), ["input", "output"][i]);
                let message = format!("{file}: there is no {what} `{}`", name.unwrap_or_default());
                Err(Error::input_hint(
                    message,
                    nearest(name.unwrap_or_default(), known[i].iter().map(String::as_str)),
                ))
            }
        };
        Ok([pick(0)?, pick(1)?])
    }

    /// Runs a batch of `rows` on the next free session; waits while all are busy.
    ///
    /// # Errors
    /// The runtime's; [`Error::Input`] if a feature is not a number, or the output has no row for each
    /// picture.
    pub(super) fn run(&self, inputs: Inputs<'_>, rows: usize) -> Result<Array2<f32>> {
        let mut session = self.take()?;
        let found = session
            .run(inputs)
            .and_then(|out| Ok(out[&*self.output].try_extract_array::<f32>()?.into_owned()))
            .map_err(|e| {
                internal(format!("{} on {}: {e}", self.file.display(), self.backend.name))
            });
        let outputs: Vec<String> = session.outputs().iter().map(|o| o.name().to_owned()).collect();
        self.give(session);
        let found = found?;
        let shape = found.shape().to_vec();
        // a pooled map of one pixel is a row
        let found = match shape.as_slice() {
            [n, width, rest @ ..] if *n == rows && *width > 0 && rest.iter().all(|d| *d == 1) => {
                let width = *width;
                found.into_shape_with_order((rows, width)).map_err(|e| internal(e.to_string()))?
            }
            _ => {
                let (file, name) = (self.file.display(), &self.output);
                return Err(Error::input_hint(
                    format!(
                        "{file}: the output `{name}` has the shape {shape:?}, but a row of features for \
                         each of {rows} pictures is wanted"
                    ),
                    format!("name another with `output`: it has {}", outputs.join(", ")),
                ));
            }
        };
        if !found.iter().all(|x| x.is_finite()) {
            return Err(Error::input_hint(
                format!("{}: the network's features are not finite", self.file.display()),
                "its weights are damaged or not those of its configuration",
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
            builder = builder.with_intra_threads(self.threads).map_err(|e| broken(e.into()))?;
            // between batches the threads are needed for pictures
            builder = builder.with_intra_op_spinning(false).map_err(|e| broken(e.into()))?;
        }
        if self.cuda {
            builder = builder
                .with_execution_providers([CUDA::default().build().error_on_failure()])
                .map_err(|e| no_cuda(&format!("{name} on CUDA: {e}")))?;
        }
        let one = || LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        let _one = (!self.backend.native).then(one);
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
