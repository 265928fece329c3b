//! Compiles the CUDA kernels of `nn::device`, where the feature `cuda` asks for them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernels and the oldest GPU that they are for: the driver compiles them for the one at hand. 7.5 is the
/// oldest that CUDA 13 knows; the products of 8.0 are what attention is made of.
const SOURCES: [(&str, &str); 2] = [("kernels", "compute_75"), ("attention", "compute_80")];

fn main() {
    let folder = Path::new("src/nn/device/cuda");
    println!("cargo:rerun-if-changed={}", folder.display());
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let home = ["CUDA_HOME", "CUDA_PATH"].iter().find_map(std::env::var_os).map(PathBuf::from);
    let nvcc = home.map_or("nvcc".into(), |home| home.join("bin/nvcc"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    for (name, oldest) in SOURCES {
        let source = folder.join(name).with_extension("cu");
        let status = Command::new(&nvcc)
            .args(["--ptx", "--gpu-architecture", oldest, "--output-file"])
            .arg(out.join(name).with_extension("ptx"))
            .arg(&source)
            .status()
            .unwrap_or_else(|e| {
                panic!("{}: {e}; the feature cuda needs CUDA's nvcc", nvcc.display())
            });
        assert!(status.success(), "{} cannot compile {}", nvcc.display(), source.display());
    }
}
