//! Compiles the CUDA kernels of `nn::device`, where the feature `cuda` asks for them.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    const SOURCE: &str = "src/nn/device/kernels.cu";
    println!("cargo:rerun-if-changed={SOURCE}");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let home = ["CUDA_HOME", "CUDA_PATH"].iter().find_map(std::env::var_os).map(PathBuf::from);
    let nvcc = home.map_or("nvcc".into(), |home| home.join("bin/nvcc"));
    let out =
        PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("kernels.ptx");
    // For the oldest GPU that CUDA 13 knows: the driver compiles it for the one at hand.
    let status = Command::new(&nvcc)
        .args(["--ptx", "--gpu-architecture=compute_75", SOURCE, "--output-file"])
        .arg(&out)
        .status()
        .unwrap_or_else(|e| panic!("{}: {e}; the feature cuda needs CUDA's nvcc", nvcc.display()));
    assert!(status.success(), "{} cannot compile {SOURCE}", nvcc.display());
}
