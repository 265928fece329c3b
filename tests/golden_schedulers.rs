//! Every sampler's trajectory against diffusers: `tests/golden/README.md` says how it was made.

use std::path::Path;

use candle_core::{Device, Tensor};
use cdbench::diffusion::config::{Config, PredictionType, SchedulerConfig, TimestepSpacing};
use cdbench::diffusion::scheduler::SchedulerKind;

/// The stand-in for a UNet: `0.5 x − 0.1 x² / (1 + x²) + 0.2 t / 1000`.
fn model(x: &Tensor, t: usize) -> candle_core::Result<Tensor> {
    let square = x.sqr()?;
    let bump = (&square / (&square + 1.0)?)?;
    ((x * 0.5)? - (bump * 0.1)?)?.affine(1.0, 0.2 * t as f64 / 1000.0)
}

fn relative_error(found: &Tensor, want: &Tensor) -> f64 {
    let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    f64::from(norm(&(found - want).unwrap()) / norm(want))
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let base = SchedulerConfig::read(&golden.join("sd1")).unwrap();
    let tensors =
        candle_core::safetensors::load(golden.join("schedulers.safetensors"), &Device::Cpu)
            .unwrap();
    let kinds = [
        ("ddpm", SchedulerKind::Ddpm, 0.0),
        ("ddim", SchedulerKind::Ddim, 0.0),
        ("ddim_eta05", SchedulerKind::Ddim, 0.5),
        ("dpmpp", SchedulerKind::DpmSolver, 0.0),
    ];
    let predictions =
        [("epsilon", PredictionType::Epsilon), ("v_prediction", PredictionType::VPrediction)];
    let spacings = [
        ("leading", TimestepSpacing::Leading),
        ("trailing", TimestepSpacing::Trailing),
        ("linspace", TimestepSpacing::Linspace),
    ];
    let mut worst = 0f64;
    for (kind_name, kind, eta) in kinds {
        for (prediction_name, prediction_type) in predictions {
            for (spacing_name, spacing) in spacings {
                for steps in [5, 7, 10, 50] {
                    let run = format!("{kind_name}.{prediction_name}.{spacing_name}.{steps}");
                    let timesteps: Vec<i64> =
                        tensors[&format!("{run}.timesteps")].to_vec1().unwrap();
                    let samples = &tensors[&format!("{run}.samples")];
                    let config = SchedulerConfig {
                        prediction_type,
                        timestep_spacing: Some(spacing),
                        ..base.clone()
                    };
                    let mut scheduler = kind.scheduler(&config, steps, eta).unwrap();
                    let found: Vec<_> = scheduler.timesteps().iter().map(|t| *t as i64).collect();
                    assert_eq!(found, timesteps, "{run}");

                    let mut x = samples.get(0).unwrap();
                    for (i, t) in found.iter().enumerate() {
                        let noise = tensors["noise"].get(i).unwrap();
                        let noise = scheduler.needs_noise(i).then_some(&noise);
                        let output = model(&x, *t as usize).unwrap();
                        x = scheduler.step(&output, i, &x, noise).unwrap();
                        let error = relative_error(&x, &samples.get(i + 1).unwrap());
                        assert!(error <= 1e-4, "{run}, step {i}: relative error {error:.1e}");
                        worst = worst.max(error);
                    }
                }
            }
        }
    }
    println!("largest relative error {worst:.1e}");
}
