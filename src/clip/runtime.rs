//! Which ONNX runtime this process has: ONNX Runtime's own library, or tract, which is built in.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;

use crate::{Error, Result};

/// The environment variable that names ONNX Runtime's library, as everywhere.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// What the system's loader is asked for.
const NAMES: &[&str] = if cfg!(windows) {
    &["onnxruntime.dll"]
} else if cfg!(target_vendor = "apple") {
    &["libonnxruntime.dylib"]
} else {
    &["libonnxruntime.so", "libonnxruntime.so.1"]
};

/// What is to run ONNX files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    /// ONNX Runtime where its library is found, else tract.
    #[default]
    Auto,
    /// tract, which is part of the program and uses the CPU.
    Tract,
    /// ONNX Runtime's library: the one that ORT_DYLIB_PATH names, or the system's.
    Native,
}

impl FromStr for Runtime {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        <Runtime as clap::ValueEnum>::from_str(name, false).map_err(|_| {
            Error::input(format!("`{name}` is no ONNX runtime: auto, tract or native is wanted"))
        })
    }
}

/// The runtime of this process.
pub struct Backend {
    pub(super) environment: Environment,
    /// With its version.
    pub name: String,
    /// Whether it is ONNX Runtime itself.
    pub native: bool,
    /// Its library, as the system's loader was asked for it; none if it is part of the program.
    pub library: Option<PathBuf>,
}

/// ort holds one table of functions for the whole process.
static CHOSEN: Mutex<Option<&'static Backend>> = Mutex::new(None);

impl Backend {
    /// Sets `runtime` up, once for the whole process.
    ///
    /// # Errors
    /// [`Error::Device`] if ONNX Runtime is wanted and not found, or if the process runs on another one
    /// already.
    pub fn get(runtime: Runtime) -> Result<&'static Backend> {
        let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = *chosen {
            let native = match runtime {
                Runtime::Auto => backend.native,
                Runtime::Tract => false,
                Runtime::Native => true,
            };
            if native != backend.native {
                let message = format!("this process already runs ONNX files with {}", backend.name);
                return Err(device(message, "a process takes one ONNX runtime"));
            }
            return Ok(backend);
        }
        let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        let library = match runtime {
            Runtime::Tract => None,
            Runtime::Native => Some(find(named.map(PathBuf::from))?),
            // who names a library wants that library
            Runtime::Auto if named.is_some() => Some(find(named.map(PathBuf::from))?),
            Runtime::Auto => find(None).inspect_err(|e| tracing::debug!("{e}")).ok(),
        };
        let native = library.is_some();
        let (api, name, library) = match library {
            Some((api, name, library)) => (api, name, Some(library)),
            None => (ort_tract::api(), "tract".into(), None),
        };
        if !ort::set_api(api) {
            return Err(device("another part of this process has set up ort", ""));
        }
        let environment = ort::init().with_name("cdbench").with_telemetry(false).build();
        let environment = environment
            .map_err(|e| device(format!("{name} does not start: {e}"), "try --ort tract"))?;
        let backend = Backend { environment, name, native, library };
        tracing::info!("ONNX files run with {}", backend.name);
        Ok(*chosen.insert(Box::leak(Box::new(backend))))
    }
}

pub(super) fn device(message: impl Into<String>, hint: &str) -> Error {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    Error::Device { message: message.into(), hint }
}

/// Opens ONNX Runtime's library: the one that is `named`, else what the system's loader finds.
fn find(named: Option<PathBuf>) -> Result<(ort::sys::OrtApi, String, PathBuf)> {
    let candidates = match named {
        Some(path) => vec![path],
        None => NAMES.iter().map(PathBuf::from).collect(),
    };
    let mut failures = Vec::new();
    for path in &candidates {
        match open(path) {
            Ok((api, name)) => return Ok((api, name, path.clone())),
            Err(why) => failures.push(format!("{}: {why}", path.display())),
        }
    }
    Err(device(
        format!("ONNX Runtime's library cannot be used ({})", failures.join("; ")),
        "`pip install onnxruntime` has it: set ORT_DYLIB_PATH to its file \
         onnxruntime/capi/libonnxruntime.so.1.*, or use --ort tract, which needs no library",
    ))
}

fn open(path: &Path) -> std::result::Result<(ort::sys::OrtApi, String), String> {
    use ort::sys::{OrtApi, OrtApiBase};
    // SAFETY: loading runs the library's own initialisers; the user named it, or the system has it
    // under ONNX Runtime's name. What is called is ONNX Runtime's C interface: `OrtGetApiBase` takes
    // nothing and gives a table that lives as long as the library, which is never closed.
    unsafe {
        let library = libloading::Library::new(path).map_err(|e| e.to_string())?;
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        let base: libloading::Symbol<unsafe extern "system" fn() -> *const OrtApiBase> =
            library.get(b"OrtGetApiBase\0").map_err(|e| e.to_string())?;
        let Some(base) = base().as_ref() else { return Err("it has no interface".into()) };
        let version = (base.GetVersionString)();
        let version = if version.is_null() {
            "of unknown version".into()
        } else {
            CStr::from_ptr(version).to_string_lossy()
        };
        let wanted = ort::MINOR_VERSION;
        // older ones answer with nothing
        let api: *const OrtApi = (base.GetApi)(wanted);
        match api.is_null() {
            true => Err(format!("it is version {version}, but 1.{wanted} or newer is wanted")),
            false => Ok((api.read(), format!("ONNX Runtime {version}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let error = find(Some("/nowhere/libonnxruntime.so".into())).err().unwrap();
        assert!(matches!(error, Error::Device { .. }));
        assert!(error.to_string().contains("/nowhere/libonnxruntime.so"), "{error}");
        assert!(error.hint().unwrap().contains("ORT_DYLIB_PATH"));
    }

    #[test]
    fn names_are_read() {
        assert_eq!("auto".parse::<Runtime>().unwrap(), Runtime::Auto);
        assert_eq!("native".parse::<Runtime>().unwrap(), Runtime::Native);
        assert!("onnx".parse::<Runtime>().is_err());
    }

    #[test]
    fn a_process_has_one_runtime() {
        let first = Backend::get(Runtime::Tract).unwrap();
        assert!(!first.native && std::ptr::eq(first, Backend::get(Runtime::Auto).unwrap()));
        assert!(matches!(Backend::get(Runtime::Native), Err(Error::Device { .. })));
    }
}
