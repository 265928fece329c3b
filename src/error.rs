use std::path::{Path, PathBuf};

/// Everything that can go wrong, by who can mend it; each kind has its own exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, folder, configuration or value given by the user cannot be used.
    #[error("{message}")]
    Input {
        /// What is wrong and where: the file, the key, what was found, what was wanted.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The operating system refused to read or write a path.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The device asked for is not there, or this build cannot use it.
    #[error("{message}")]
    Device {
        /// Which device, and why not.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The device has not enough memory for what was asked of it.
    #[error("{message}")]
    Memory {
        /// Which device, and what it said.
        message: String,
        /// What takes less.
        hint: Option<String>,
    },
    /// Training or sampling produced a number that is not finite.
    #[error("{0}")]
    Diverged(String),
    /// Some of many things failed; the others are done.
    #[error("{0}")]
    Incomplete(String),
    /// A metric is worse than its baseline by more than noise and tolerance.
    #[error("{0}")]
    Regressed(String),
    /// Numbers of different protocols, which cannot be compared.
    #[error("{0}")]
    Protocol(String),
    /// The user interrupted the command; what was finished is kept.
    #[error("interrupted")]
    Interrupted,
    /// A failure inside the tensor library: a bug here or there, never bad input.
    #[error("internal error: {0}")]
    Tensor(candle_core::Error),
}

/// The result of every fallible function outside `nn`, which uses candle's.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Bad input, without a hint.
    pub fn input(message: impl Into<String>) -> Self {
        Error::Input { message: message.into(), hint: None }
    }

    /// Bad input, with a hint that says what to do.
    pub fn input_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Input { message: message.into(), hint: Some(hint.into()) }
    }

    /// For `map_err` behind a call on the file system. Contents that the call could not understand, such
    /// as a text that is not UTF-8, are bad input: the system did its part.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            std::io::ErrorKind::InvalidData => {
                Error::input(format!("{}: {source}", path.display()))
            }
            _ => Error::Io { path, source },
        }
    }

    /// Bad input, or numbers of another protocol, with what it is about in front.
    pub fn of(self, what: &str) -> Self {
        let placed = |message| format!("{what}: {message}");
        match self {
            Error::Input { message, hint } => Error::Input { message: placed(message), hint },
            Error::Protocol(message) => Error::Protocol(placed(message)),
            other => other,
        }
    }

    /// The same, about a file.
    pub fn of_file(self, path: &Path) -> Self {
        self.of(&path.display().to_string())
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Input { hint, .. } | Error::Device { hint, .. } | Error::Memory { hint, .. } => {
                hint.as_deref()
            }
            _ => None,
        }
    }

    /// Whether it is the machine's and not that of what was to be done, so that another machine may do it:
    /// a full disk, a lost network, a device that is not there.
    pub fn is_of_machine(&self) -> bool {
        use std::io::ErrorKind::{
            FileTooLarge, HostUnreachable, NetworkDown, NetworkUnreachable, QuotaExceeded,
            ReadOnlyFilesystem, StaleNetworkFileHandle, StorageFull, TimedOut,
        };
        match self {
            Error::Device { .. } => true,
            Error::Io { source, .. } => matches!(
                source.kind(),
                // the first is what `ulimit -f` makes of a disk
                FileTooLarge
                    | StorageFull
                    | QuotaExceeded
                    | ReadOnlyFilesystem
                    | StaleNetworkFileHandle
                    | NetworkDown
                    | NetworkUnreachable
                    | HostUnreachable
                    | TimedOut
            ),
            _ => false,
        }
    }

    /// The exit code of the process: see `cdbench --help`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Tensor(_) => 1,
            Error::Input { .. } => 3,
            Error::Io { .. } => 4,
            Error::Device { .. } | Error::Memory { .. } => 5,
            Error::Diverged(_) => 6,
            Error::Incomplete(_) => 7,
            Error::Regressed(_) => 8,
            Error::Protocol(_) => 9,
            Error::Interrupted => 130,
        }
    }
}

/// A failure of the tensor library is one of the device's where the device says so.
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        use candle_core::Error as Candle;
        let cause = cause(&error);
        let said = match cause {
            Candle::UnsupportedDTypeForOp(..) | Candle::Cuda(_) | Candle::Metal(_) => {
                cause.to_string()
            }
            // where candle waits for the device or calls cuDNN
            Candle::Wrapped(said) if is_of_driver(&said.to_string()) => said.to_string(),
            Candle::NotCompiledWithCudaSupport | Candle::NotCompiledWithMetalSupport => {
                cause.to_string()
            }
            _ => return Error::Tensor(error),
        };
        let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if any(&OUT_OF_MEMORY) {
            return Error::Memory {
                message: format!("the device has not enough memory: {said}"),
                hint: Some(
                    "`cdbench doctor` says how much is free and what each method needs; --dtype bf16 halves \
                     most of it"
                        .into(),
                ),
            };
        }
        let (message, hint) = if matches!(cause, Candle::UnsupportedDTypeForOp(..))
            || any(&UNKNOWN_TYPE)
        {
            (
                format!("the device does not compute in this type: {said}"),
                "--dtype f32 works everywhere",
            )
        } else if any(&OTHER_GPU) {
            (
                format!("this build is for another GPU or a newer driver: {said}"),
                "build where the GPU is, or with CUDA_COMPUTE_CAP set to its compute capability (86 for 8.6); \
                 a driver that is older than the toolkit must be updated",
            )
        } else if any(&LOST) {
            (
                format!("the device is lost: {said}"),
                "what was finished is kept: the same command goes on from there once the device is back, \
                 or on the CPU with --device cpu",
            )
        } else if matches!(cause, Candle::Cuda(_) | Candle::Metal(_) | Candle::Wrapped(_)) {
            return Error::Tensor(error);
        } else {
            (said, "build with `cargo build --release --features cuda`, or use `--device cpu`")
        };
        Error::Device { message, hint: Some(hint.into()) }
    }
}

/// What drivers and their libraries call a lack of memory,
const OUT_OF_MEMORY: [&str; 4] =
    ["OUT_OF_MEMORY", "out of memory", "STATUS_ALLOC_FAILED", "FailedToCreateResource"];
/// a type that there is no code for on this device,
const UNKNOWN_TYPE: [&str; 4] = [
    "unsupported dtype",
    // no kernel of that name: candle has none for bf16 before compute capability 8.0
    "CUDA_ERROR_NOT_FOUND",
    "STATUS_ARCH_MISMATCH",
    "CUBLAS_STATUS_NOT_SUPPORTED",
];
/// kernels that were compiled for something else,
const OTHER_GPU: [&str; 3] = [
    "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "CUDA_ERROR_INVALID_PTX",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
];
/// and a device that is gone or broken. Wrong addresses are not among them: those are bugs.
const LOST: [&str; 9] = [
    "CUDA_ERROR_NO_DEVICE",
    "CUDA_ERROR_INVALID_DEVICE",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_DEINITIALIZED",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_SYSTEM_NOT_READY",
    "CUDA_ERROR_UNKNOWN",
];

/// Whether that is how cudarc shows what NVIDIA's libraries return.
fn is_of_driver(said: &str) -> bool {
    ["DriverError(", "CudnnError(", "CublasError(", "CurandError("]
        .iter()
        .any(|e| said.starts_with(e))
}

/// The cause, without backtraces, paths and contexts around it.
fn cause(error: &candle_core::Error) -> &candle_core::Error {
    use candle_core::Error as Candle;
    match error {
        Candle::WithBacktrace { inner, .. }
        | Candle::WithPath { inner, .. }
        | Candle::Context { inner, .. } => cause(inner),
        other => other,
    }
}

/// What a TOML file has that its type has not: with a hint where a key, or a value of a few, is not
/// known.
impl From<toml::de::Error> for Error {
    fn from(error: toml::de::Error) -> Self {
        let hint = hint_of_unknown(error.message());
        Error::Input { message: error.to_string().trim_end().to_owned(), hint }
    }
}

/// The hint that is in serde's words about a key or value: unknown field `a`, expected one of `b`, `c`.
pub(crate) fn hint_of_unknown(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let name = quoted.next().filter(|_| message.starts_with("unknown"))?;
    Some(nearest(name, quoted))
}

/// The hint of an error about an unknown name: the known names that look most like it, or all of them
/// where there are few.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    if known.is_empty() {
        return "there is nothing to choose from".into();
    }
    let distance = |k: &str| strsim::osa_distance(&name.to_lowercase(), &k.to_lowercase());
    known.sort_by_key(|k| distance(k));
    let close = known.iter().take_while(|k| distance(k) <= 1 + name.chars().count() / 3).count();
    match close {
        0 => format!("there are {}", known[..known.len().min(20)].join(", ")),
        close => format!("did you mean {}?", known[..close.min(3)].join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_is_no_text_is_bad_input_and_what_is_missing_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let read = || std::fs::read_to_string(&file).map_err(Error::io(&file)).unwrap_err();
        assert_eq!(read().exit_code(), 4);
        std::fs::write(&file, b"name = \"\xff\xfe\"").unwrap();
        let error = read();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }

    #[test]
    fn what_the_device_says_is_no_bug_of_ours() {
        let of = |text: &str| Error::from(candle_core::Error::Cuda(text.into()).context("conv2d"));
        for (text, code, hint) in [
            ("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", 5, "doctor"),
            ("CublasError(CUBLAS_STATUS_ALLOC_FAILED)", 5, "bf16"),
            ("DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, \"…\")", 5, "goes on from there"),
            ("unsupported dtype BF16 for conv2d", 5, "--dtype f32"),
            ("DriverError(CUDA_ERROR_NOT_FOUND, \"named symbol not found\")", 5, "--dtype f32"),
            ("DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, \"…\")", 5, "driver"),
            ("DriverError(CUDA_ERROR_NO_BINARY_FOR_GPU, \"…\")", 5, "CUDA_COMPUTE_CAP"),
        ] {
            let error = of(text);
            assert_eq!(error.exit_code(), code, "{text}");
            assert!(error.hint().is_some_and(|h| h.contains(hint)), "{error:?}");
            assert!(error.to_string().contains(text), "{error}");
        }
        assert_eq!(of("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"…\")").exit_code(), 1);
        assert_eq!(Error::from(candle_core::Error::NotCompiledWithCudaSupport).exit_code(), 5);
        assert_eq!(Error::from(candle_core::Error::msg("out of memory")).exit_code(), 1);
        let wrapped = |text: &str| Error::from(candle_core::Error::wrap(text.to_owned()));
        assert!(matches!(wrapped("CudnnError(CUDNN_STATUS_ALLOC_FAILED)"), Error::Memory { .. }));
        let full = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        assert!(matches!(wrapped(full), Error::Memory { .. }));
        assert_eq!(wrapped("CudnnError(CUDNN_STATUS_BAD_PARAM)").exit_code(), 1);
        assert_eq!(wrapped("out of memory, said somebody else").exit_code(), 1);
        let lacking = candle_core::Error::UnsupportedDTypeForOp(candle_core::DType::BF16, "conv2d");
        let error = Error::from(lacking.bt());
        assert_eq!((error.exit_code(), error.hint()), (5, Some("--dtype f32 works everywhere")));
    }

    #[test]
    fn near_names_are_offered_and_far_ones_listed() {
        let known = ["dog_plum", "cat_mint", "car_bee"];
        assert_eq!(nearest("dog_plumm", known), "did you mean dog_plum?");
        assert_eq!(nearest("Cat-mint", known), "did you mean cat_mint?");
        assert!(nearest("zebra", known).contains("car_bee"));
    }
}
