use super::*;
use crate::diffusion::config::{BetaSchedule, Config, PredictionType, TimestepSpacing};
use candle_core::Device;
use proptest::prelude::*;
use std::path::Path;

fn sd15() -> SchedulerConfig {
    SchedulerConfig {
        beta_start: 0.00085,
        beta_end: 0.012,
        beta_schedule: BetaSchedule::ScaledLinear,
        clip_sample: Some(false),
        set_alpha_to_one: Some(false),
        steps_offset: 1,
        ..Default::default()
    }
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

fn close(found: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(found.len(), want.len());
    for (f, w) in found.iter().zip(want) {
        assert!((f - w).abs() <= tolerance * w.abs().max(1.0), "{found:?} is not {want:?}");
    }
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(e) => e.to_string(),
    }
}

const KINDS: [SchedulerKind; 3] =
    [SchedulerKind::Ddpm, SchedulerKind::Ddim, SchedulerKind::DpmSolver];

/// ```python
/// for config in [dict(beta_schedule="linear"), SD, dict(beta_schedule="squaredcos_cap_v2")]:
///     print(DDPMScheduler(**config).alphas_cumprod[[0, 1, 500, 998, 999]].double().tolist())
/// ```
#[test]
fn alphas_are_those_of_diffusers() {
    let cases = [
        (
            SchedulerConfig::default(),
            [0.99989998, 0.99978006, 0.077796653, 4.1181942e-5, 4.0358304e-5],
        ),
        (sd15(), [0.99914998, 0.99829602, 0.27633247, 0.0047166958, 0.0046600951]),
        (
            SchedulerConfig { beta_schedule: BetaSchedule::SquaredcosCapV2, ..Default::default() },
            [0.99995869, 0.99991256, 0.49228504, 2.4287663e-6, 2.4287350e-9],
        ),
    ];
    for (config, want) in cases {
        let schedule = NoiseSchedule::new(&config);
        for (t, want) in [0, 1, 500, 998, 999].into_iter().zip(want) {
            let found = schedule.alphas_cumprod()[t];
            // diffusers multiplies in f32
            assert!((found / want - 1.0).abs() < 2e-5, "{t}: {found} is not {want}");
        }
    }
}

#[test]
fn noise_and_velocity_are_mixed_per_sample() {
    let schedule = NoiseSchedule::new(&sd15());
    let x0 = tensor(&[1.0, 2.0, 3.0, 4.0]).reshape((2, 2)).unwrap();
    let noise = tensor(&[0.5, -0.5, 0.25, -0.25]).reshape((2, 2)).unwrap();
    let (a, b) = (schedule.alphas_cumprod()[10], schedule.alphas_cumprod()[900]);
    let mix = |a: f64, x: f64, n: f64| (a.sqrt() * x + (1.0 - a).sqrt() * n) as f32;
    let found = values(&schedule.add_noise(&x0, &noise, &[10, 900]).unwrap());
    close(
        &found,
        &[mix(a, 1.0, 0.5), mix(a, 2.0, -0.5), mix(b, 3.0, 0.25), mix(b, 4.0, -0.25)],
        1e-6,
    );
    let turn = |a: f64, x: f64, n: f64| (a.sqrt() * n - (1.0 - a).sqrt() * x) as f32;
    let found = values(&schedule.velocity(&x0, &noise, &[10, 900]).unwrap());
    close(
        &found,
        &[turn(a, 1.0, 0.5), turn(a, 2.0, -0.5), turn(b, 3.0, 0.25), turn(b, 4.0, -0.25)],
        1e-6,
    );
    assert!((schedule.snr(900) - b / (1.0 - b)).abs() < 1e-12);
    // a batch of another size
    assert!(schedule.add_noise(&x0, &noise, &[1, 2, 3]).is_err());
}

/// Sampling with the true noise must lead back to the clean sample, whatever is predicted.
#[test]
fn a_perfect_model_leads_back_to_the_clean_sample() {
    let x0 = tensor(&[0.9, -0.4, 0.1]);
    let noise = tensor(&[0.3, 1.2, -0.7]);
    for prediction_type in
        [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample]
    {
        // `set_alpha_to_one`: the last step ends at the clean sample
        let config = SchedulerConfig { prediction_type, set_alpha_to_one: None, ..sd15() };
        let schedule = NoiseSchedule::new(&config);
        for kind in [SchedulerKind::Ddim, SchedulerKind::DpmSolver] {
            let mut scheduler = kind.scheduler(&config, 12, 0.0).unwrap();
            let timesteps = scheduler.timesteps().to_vec();
            let batch = |x: &Tensor| x.unsqueeze(0).unwrap();
            let mut x = schedule.add_noise(&batch(&x0), &batch(&noise), &timesteps[..1]).unwrap();
            for (i, t) in timesteps.iter().enumerate() {
                // DDIM and DPM-Solver stay on the straight path between this noise and this sample
                let output = schedule.target(&batch(&x0), &batch(&noise), &[*t]).unwrap();
                x = scheduler.step(&output, i, &x, None).unwrap();
            }
            close(&values(&x), &values(&x0), 1e-4);
        }
    }
}

#[test]
fn clipping_bounds_the_clean_sample() {
    let free = SchedulerConfig { prediction_type: PredictionType::Sample, ..sd15() };
    let clipped = SchedulerConfig { clip_sample: None, clip_sample_range: 0.5, ..free.clone() };
    for kind in [SchedulerKind::Ddpm, SchedulerKind::Ddim] {
        let step = |config: &SchedulerConfig, output: f32| {
            let mut scheduler = kind.scheduler(config, 10, 0.0).unwrap();
            let noise = tensor(&[0.0]);
            let (output, sample) = (tensor(&[output]), tensor(&[0.2]));
            values(&scheduler.step(&output, 0, &sample, Some(&noise)).unwrap())[0]
        };
        close(&[step(&clipped, -0.4)], &[step(&free, -0.4)], 0.0);
        let lost = step(&free, 7.0) - step(&clipped, 7.0);
        // the weight of the clean sample in this step
        let ddpm = step(&free, 1.0) - step(&free, 0.0);
        let schedule = NoiseSchedule::new(&free);
        let weight = match kind {
            SchedulerKind::Ddpm => ddpm,
            _ => schedule.alphas_cumprod()[801].sqrt() as f32,
        };
        assert_eq!(kind.scheduler(&free, 10, 0.0).unwrap().timesteps()[..2], [901, 801]);
        close(&[lost], &[6.5 * weight], 1e-4);
    }
}

#[test]
fn half_precision_samples_stay_half_precision() {
    for kind in KINDS {
        let mut scheduler = kind.scheduler(&sd15(), 4, 0.0).unwrap();
        let x = tensor(&[1.0, -1.0]).to_dtype(DType::BF16).unwrap();
        let found = scheduler.step(&x, 0, &x, Some(&x)).unwrap();
        assert_eq!(found.dtype(), DType::BF16);
    }
}

#[test]
fn noise_is_asked_for_where_it_is_used() {
    let ddpm = SchedulerKind::Ddpm.scheduler(&SchedulerConfig::default(), 10, 0.0).unwrap();
    assert_eq!(ddpm.timesteps()[9], 0);
    assert!(ddpm.needs_noise(8) && !ddpm.needs_noise(9));
    let mut ddim = SchedulerKind::Ddim.scheduler(&sd15(), 10, 1.0).unwrap();
    assert!(ddim.needs_noise(0));
    let x = tensor(&[1.0]);
    assert!(message(ddim.step(&x, 0, &x, None)).contains("noise"));
    assert!(!SchedulerKind::Ddim.scheduler(&sd15(), 10, 0.0).unwrap().needs_noise(0));
}

#[test]
fn multistep_must_go_in_order_and_may_start_again() {
    let mut solver = SchedulerKind::DpmSolver.scheduler(&sd15(), 5, 0.0).unwrap();
    let x = tensor(&[0.3]);
    assert!(message(solver.step(&x, 2, &x, None)).contains("must follow"));
    let first = values(&solver.step(&x, 0, &x, None).unwrap());
    solver.step(&x, 1, &x, None).unwrap();
    assert!(solver.step(&x, 3, &x, None).is_err());
    assert_eq!(values(&solver.step(&x, 0, &x, None).unwrap()), first);
}

#[test]
fn impossible_settings_are_refused() {
    for kind in KINDS {
        for steps in [0, 1001, usize::MAX] {
            assert!(message(kind.scheduler(&sd15(), steps, 0.0)).contains("steps"));
        }
        kind.scheduler(&sd15(), 1, 0.0).unwrap();
    }
    // 1000 leading steps with an offset of 1 would start at timestep 1000
    assert!(message(SchedulerKind::Ddim.scheduler(&sd15(), 1000, 0.0)).contains("steps_offset"));
    for eta in [-0.1, 1.1, f64::NAN] {
        assert!(SchedulerKind::Ddim.scheduler(&sd15(), 10, eta).is_err());
    }
    let at = Path::new("c");
    let large = SchedulerConfig::parse(r#"{"variance_type": "fixed_large"}"#, at).unwrap();
    assert!(message(SchedulerKind::Ddpm.scheduler(&large, 10, 0.0)).contains("variance_type"));
    SchedulerKind::Ddim.scheduler(&large, 10, 0.0).unwrap();
    let karras = r#"{"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": true}"#;
    let karras = SchedulerConfig::parse(karras, at).unwrap();
    assert!(message(SchedulerKind::DpmSolver.scheduler(&karras, 10, 0.0)).contains("karras"));
}

#[test]
fn names_are_understood() {
    for kind in KINDS {
        assert_eq!(kind.to_string().parse::<SchedulerKind>().unwrap(), kind);
    }
    assert!("euler".parse::<SchedulerKind>().is_err());
    for (class, kind) in [
        ("DDPMScheduler", SchedulerKind::Ddpm),
        ("DDIMScheduler", SchedulerKind::Ddim),
        ("PNDMScheduler", SchedulerKind::Ddim),
        ("DPMSolverSDEScheduler", SchedulerKind::DpmSolver),
        ("DDPMParallelScheduler", SchedulerKind::Ddpm),
        ("TCDScheduler", SchedulerKind::Ddim),
        ("DPMSolverMultistepScheduler", SchedulerKind::DpmSolver),
    ] {
        let config = SchedulerConfig { _class_name: class.into(), ..Default::default() };
        config.check().unwrap();
        assert_eq!(SchedulerKind::of(&config), kind);
    }
}

/// ```python
/// c = dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)
/// s = DPMSolverMultistepScheduler(**c); s.set_timesteps(5); print(s.timesteps)
/// ```
#[test]
fn the_noisiest_timesteps_can_be_clipped() {
    let config = SchedulerConfig {
        beta_schedule: BetaSchedule::SquaredcosCapV2,
        lambda_min_clipped: Some(-5.1),
        ..Default::default()
    };
    let solver = SchedulerKind::DpmSolver.scheduler(&config, 5, 0.0).unwrap();
    assert_eq!(solver.timesteps(), [995, 796, 597, 398, 199]);
}

proptest! {
    /// Any schedule and number of steps: falling timesteps and finite samples, or an error.
    #[test]
    fn every_schedule_samples_or_is_refused(
        kind in prop::sample::select(KINDS.to_vec()),
        spacing in prop::sample::select(vec![
            None,
            Some(TimestepSpacing::Leading),
            Some(TimestepSpacing::Trailing),
            Some(TimestepSpacing::Linspace),
        ]),
        beta_schedule in prop::sample::select(vec![
            BetaSchedule::Linear, BetaSchedule::ScaledLinear, BetaSchedule::SquaredcosCapV2,
        ]),
        num_train_timesteps in 1usize..300,
        steps in 1usize..40,
        steps_offset in 0usize..3,
        eta in 0.0..1.0f64,
    ) {
        let config = SchedulerConfig {
            num_train_timesteps, beta_schedule, steps_offset, timestep_spacing: spacing, ..sd15()
        };
        prop_assume!(steps_offset < num_train_timesteps);
        let Ok(mut scheduler) = kind.scheduler(&config, steps, eta) else { return Ok(()) };
        let timesteps = scheduler.timesteps().to_vec();
        prop_assert!(timesteps.windows(2).all(|pair| pair[0] > pair[1]));
        prop_assert!(timesteps[0] < num_train_timesteps);
        let noise = tensor(&[0.5, -2.0]);
        let mut x = tensor(&[1.0, -1.0]);
        for i in 0..timesteps.len() {
            let output = (&x * 0.5).unwrap();
            x = scheduler.step(&output, i, &x, Some(&noise)).unwrap();
        }
        prop_assert!(values(&x).iter().all(|x| x.is_finite()));
    }
}
