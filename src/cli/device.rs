//! Choosing where tensors live.

use std::str::FromStr;

use candle_core::{DType, Device};

use crate::nn::open_cuda;
use crate::{Error, Result};

/// What a command computes on, and in which numbers.
#[derive(clap::Args, Clone, Copy)]
pub struct DeviceArgs {
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto")]
    pub device: DeviceName,

    /// Type of frozen weights and forward passes: f32, bf16, or f16, in which losses are scaled
    #[arg(long, default_value = "f32", value_parser = dtype)]
    pub dtype: DType,

    /// Round the operands of f32's products to TF32, on an NVIDIA GPU: faster, in another protocol
    #[arg(long)]
    pub tf32: bool,
}

impl DeviceArgs {
    /// Opens the device.
    ///
    /// # Errors
    /// As [`DeviceName::open`]; a device that is asked for TF32 and has none.
    pub fn open(&self) -> Result<Device> {
        let device = self.device.open_with(self.tf32)?;
        if self.tf32 {
            if !device.is_cuda() {
                return Err(Error::input_hint(
                    "--tf32: only NVIDIA's GPUs have it",
                    "leave it out",
                ));
            }
            candle_core::cuda::set_gemm_reduced_precision_f32(true);
        }
        Ok(device)
    }
}

/// The type of numbers that a user names.
pub fn dtype(name: &str) -> std::result::Result<DType, String> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => Err("use f32, bf16 or f16".into()),
    }
}

/// A device as the user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU if this build and machine have one, the CPU otherwise.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let (kind, index) = match name.split_once(':') {
            Some((kind, index)) => {
                (kind, Some(index.parse().map_err(|_| format!("`{index}` is not a number"))?))
            }
            None => (name, None),
        };
        match (kind, index) {
            ("auto", None) => Ok(DeviceName::Auto),
            ("cpu", None) => Ok(DeviceName::Cpu),
            ("cuda", index) => Ok(DeviceName::Cuda(index.unwrap_or(0))),
            ("metal", None) => Ok(DeviceName::Metal),
            _ => Err("use auto, cpu, cuda, cuda:N or metal".into()),
        }
    }
}

/// As `--device` takes it.
impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            DeviceName::Auto => f.write_str("auto"),
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(i) => write!(f, "cuda:{i}"),
            DeviceName::Metal => f.write_str("metal"),
        }
    }
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Device`] if it is not there, or this build was made without support for it.
    pub fn open(self) -> Result<Device> {
        self.open_with(false)
    }

    fn open_with(self, tf32: bool) -> Result<Device> {
        // cuDNN rounds to TF32 unless this is said before it is loaded; cuBLAS does not.
        if cfg!(feature = "cudnn") && !tf32 {
            // SAFETY: commands open the device first, when no other thread looks at the environment.
            unsafe { std::env::set_var("NVIDIA_TF32_OVERRIDE", "0") };
        }
        let unavailable = |feature: &str, built: bool, reason: candle_core::Error| Error::Device {
            message: format!(
                "no {feature} device: {}",
                reason.to_string().lines().next().unwrap_or("")
            ),
            hint: Some(if built {
                "`--device cpu` works everywhere".into()
            } else {
                format!(
                    "this build is for the CPU only: build with `cargo build --release --features \
                     {feature}`, or use `--device cpu`"
                )
            }),
        };
        match self {
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Cuda(i) => {
                open_cuda(i).map_err(|e| unavailable("cuda", cfg!(feature = "cuda"), e))
            }
            DeviceName::Metal => {
                Device::new_metal(0).map_err(|e| unavailable("metal", cfg!(feature = "metal"), e))
            }
            DeviceName::Auto if cfg!(feature = "cuda") => Ok(open_cuda(0).unwrap_or(Device::Cpu)),
            DeviceName::Auto if cfg!(feature = "metal") => {
                Ok(Device::new_metal(0).unwrap_or(Device::Cpu))
            }
            DeviceName::Auto => Ok(Device::Cpu),
        }
    }
}
