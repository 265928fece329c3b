use std::path::Path;
use std::time::Duration;

use super::*;
use crate::nn::{Builder, Conv2d, GroupNorm, Linear, RandomSource, ops};
use crate::train::{Trainable, loss};

/// A small network of every kind of layer, and a regression to train it on.
struct Toy {
    conv: Conv2d,
    norm: GroupNorm,
    out: Linear,
    params: Vec<Param>,
    dtype: DType,
    poison: Option<u64>,
    /// What the loss is multiplied with.
    weight: f64,
}

struct Batch {
    inputs: Tensor,
    targets: Tensor,
    weights: Tensor,
}

impl Toy {
    fn new() -> Self {
        Toy::of(DType::F32, 1.0)
    }

    fn of(dtype: DType, weight: f64) -> Self {
        let b = Builder::new(RandomSource { seed: 5 }, &Device::Cpu, dtype);
        Toy {
            conv: Conv2d::same(&b.at("conv"), 3, 8).unwrap(),
            norm: GroupNorm::new(&b.at("norm"), 2, 8, 1e-5).unwrap(),
            out: Linear::new(&b.at("out"), 8, 2).unwrap(),
            params: b.params(),
            dtype,
            poison: None,
            weight,
        }
    }

    fn trainer(&self, train: &str, config: TrainConfig) -> Trainer {
        let set: Trainable = train.parse().unwrap();
        let params = set.apply(&[("toy", &self.params)]).unwrap();
        let groups = vec![Group { params, lr: 1e-2, weight_decay: 1e-2 }];
        Trainer::new(config, groups, 9).unwrap().computing_in(self.dtype)
    }

    /// The bits of all parameters, by name.
    fn bits(&self) -> Vec<(String, Vec<u32>)> {
        self.params.iter().map(|p| (p.name().to_owned(), bits(&p.to_file().unwrap()))).collect()
    }
}

fn bits(x: &Tensor) -> Vec<u32> {
    let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    x.to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

impl Task for Toy {
    type Batch = Batch;

    fn next_batch(&mut self, step: u64, streams: &mut Streams) -> Result<Batch> {
        let images = 7;
        let inputs = streams.stream("inputs").normal((images, 3, 4, 4), &Device::Cpu)?;
        let mut targets = inputs.narrow(1, 0, 2)?.contiguous()?;
        if streams.stream("flip").chance(0.2) {
            targets = targets.neg()?;
        }
        if self.poison == Some(step) {
            targets = (targets / 0.0)?;
        }
        let weights = (loss::mean_weights(images, 2 * 16, &Device::Cpu)? * self.weight)?;
        Ok(Batch { inputs, targets, weights })
    }

    fn size(&self, batch: &Batch) -> BatchSize {
        BatchSize { images: batch.inputs.dims()[0], pixels: 16 * 16 }
    }

    fn loss(&self, batch: &Batch, part: &Part) -> Result<Var> {
        let rows = |x: &Tensor| x.narrow(0, part.images.start, part.images.len());
        let inputs = rows(&batch.inputs)?.to_dtype(self.dtype)?;
        let x = ops::from_image(&Var::constant(inputs))?;
        let x = self.norm.forward_silu(&self.conv.forward(&x)?)?;
        let x = self.out.forward(&ops::map_to_tokens(&x)?)?;
        let x = ops::to_image(&ops::tokens_to_map(&x, 4, 4)?)?;
        Ok(loss::squared_error(&x, &rows(&batch.targets)?, &rows(&batch.weights)?)?)
    }

    fn describe(&self, _: &Batch) -> Vec<String> {
        vec!["a photo of a <new1> dog".into()]
    }
}

fn config(steps: u64) -> TrainConfig {
    let schedule = Schedule { decay: crate::train::Decay::Cosine, warmup: 3, floor: 0.0 };
    let ema = Some(EmaConfig { decay: 0.9, warmup: true });
    TrainConfig { steps, schedule, ema, ..TrainConfig::default() }
}

fn run(trainer: &mut Trainer, toy: &mut Toy) -> Result<Vec<Progress>> {
    let mut log = vec![];
    trainer.run(toy, &AtomicBool::new(false), |p| log.push(*p))?;
    Ok(log)
}

/// Runs until `stop_at` steps are done, then interrupts.
fn run_until(trainer: &mut Trainer, toy: &mut Toy, stop_at: u64) -> Result<()> {
    let stop = AtomicBool::new(false);
    trainer.run(toy, &stop, |p| stop.store(p.step == stop_at, Ordering::Relaxed))
}

fn averages(trainer: &Trainer) -> Vec<Vec<u32>> {
    trainer.ema().unwrap().state().map(|(_, average)| bits(average)).collect()
}

fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

#[test]
fn it_learns() {
    let mut toy = Toy::new();
    let mut trainer = toy.trainer("all", TrainConfig { steps: 60, ..TrainConfig::default() });
    let log = run(&mut trainer, &mut toy).unwrap();
    assert_eq!(log.last().map(|p| (p.step, p.steps)), Some((60, 60)));
    let mean = |log: &[Progress]| log.iter().map(|p| p.loss).sum::<f64>() / log.len() as f64;
    assert!(mean(&log[50..]) < 0.95 * mean(&log[..5]), "{} {}", mean(&log[50..]), mean(&log[..5]));
}

#[test]
fn exactly_the_chosen_parameters_move() {
    let sets = [
        (
            "all",
            vec!["conv.bias", "conv.weight", "norm.bias", "norm.weight", "out.bias", "out.weight"],
        ),
        ("toy.conv.*", vec!["conv.bias", "conv.weight"]),
        ("*.bias", vec!["conv.bias", "norm.bias", "out.bias"]),
        ("out.weight,norm.weight", vec!["norm.weight", "out.weight"]),
    ];
    for (set, wanted) in sets {
        let mut toy = Toy::new();
        let before = toy.bits();
        run(&mut toy.trainer(set, config(3)), &mut toy).unwrap();
        let mut moved: Vec<String> = before
            .into_iter()
            .zip(toy.bits())
            .filter(|(before, after)| before != after)
            .map(|((name, _), _)| name)
            .collect();
        moved.sort();
        assert_eq!(moved, wanted, "{set}");
    }
}

#[test]
fn the_same_bits_with_any_number_of_threads() {
    let train = |threads| {
        with_threads(threads, || {
            let mut toy = Toy::new();
            let mut trainer =
                toy.trainer("all", TrainConfig { images_per_part: Some(2), ..config(4) });
            let log = run(&mut trainer, &mut toy).unwrap();
            let log: Vec<_> =
                log.iter().map(|p| (p.loss.to_bits(), p.grad_norm.to_bits())).collect();
            (toy.bits(), averages(&trainer), log)
        })
    };
    let one = train(1);
    assert!(one == train(2));
    assert!(one == train(3));
}

#[test]
fn parts_add_up_to_the_batch() {
    let mut toy = Toy::new();
    let params = "all".parse::<Trainable>().unwrap().apply(&[("toy", &toy.params)]).unwrap();
    let batch = toy.next_batch(0, &mut Streams::new(1)).unwrap();
    let norm = |per_part| {
        let (loss, grads) =
            scaled_gradients(7, per_part, &Device::Cpu, 1.0, |part| toy.loss(&batch, part))
                .unwrap();
        (loss, gradient_norm(&params, &grads).unwrap())
    };
    let (whole, parts) = (norm(7), norm(3));
    assert!((whole.0 / parts.0 - 1.0).abs() < 1e-6, "{whole:?} {parts:?}");
    assert!((whole.1 / parts.1 - 1.0).abs() < 1e-5, "{whole:?} {parts:?}");
}

#[test]
fn a_resumed_run_is_the_same_run() {
    resumes(&Toy::new);
    // whose first steps are skipped, so that there is a scale to remember
    resumes(&|| Toy::of(DType::F16, 10.0));
}

fn resumes(new: &dyn Fn() -> Toy) {
    let straight = {
        let mut toy = new();
        let mut trainer = toy.trainer("conv.*,out.*", config(10));
        let log = run(&mut trainer, &mut toy).unwrap();
        (toy.bits(), averages(&trainer), log.last().unwrap().loss)
    };
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        // new parameters each time: nothing may come from anywhere but the state
        let toy = new();
        let trainer = toy.trainer("conv.*,out.*", config(10));
        (toy, trainer.with_checkpoints(Checkpoints::new(dir.path(), "toy")).unwrap())
    };
    let (mut toy, mut trainer) = start();
    assert!(matches!(run_until(&mut trainer, &mut toy, 5), Err(Error::Interrupted)));
    let (mut toy, mut trainer) = start();
    assert_eq!(trainer.step(), 5);
    let log = run(&mut trainer, &mut toy).unwrap();
    assert_eq!(log.len(), 5);
    assert!((toy.bits(), averages(&trainer), log.last().unwrap().loss) == straight);
    // what is finished stays finished
    let (mut toy, mut trainer) = start();
    assert!(run(&mut trainer, &mut toy).unwrap().is_empty());
    assert!(toy.bits() == straight.0);
}

#[test]
fn the_latest_states_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut toy = Toy::new();
    let checkpoints =
        Checkpoints { every_steps: Some(2), keep: 3, ..Checkpoints::new(dir.path(), "toy") };
    let mut trainer =
        toy.trainer("out.*", config(9)).with_checkpoints(checkpoints.clone()).unwrap();
    run(&mut trainer, &mut toy).unwrap();
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let states = checkpoints.list().unwrap();
    let ends =
        ["step-00000006.safetensors", "step-00000008.safetensors", "step-00000009.safetensors"];
    assert!(states.iter().zip(ends).all(|(path, end)| path.ends_with(end)), "{states:?}");
}

#[test]
fn divergence_names_step_rate_and_captions_and_spoils_nothing() {
    let mut toy = Toy::new();
    toy.poison = Some(2);
    let mut trainer = toy.trainer("all", TrainConfig { steps: 5, ..TrainConfig::default() });
    run_until(&mut trainer, &mut toy, 2).unwrap_err();
    let before = toy.bits();
    let error = run(&mut trainer, &mut toy).unwrap_err();
    assert!(matches!(error, Error::Diverged(_)));
    let text = error.to_string();
    for wanted in ["step 3", "1e-2", "<new1> dog", "inf"] {
        assert!(text.to_lowercase().contains(wanted), "{text}");
    }
    assert!(toy.bits() == before);
    assert_eq!(trainer.step(), 2);
}

#[test]
fn gradients_too_small_for_f16_are_scaled() {
    let train = |dtype| {
        let mut toy = Toy::of(dtype, 1e-7);
        let before = flat(&toy);
        let mut trainer = toy.trainer("all", TrainConfig { steps: 10, ..TrainConfig::default() });
        let log = run(&mut trainer, &mut toy).unwrap();
        let moved: Vec<f64> = flat(&toy).iter().zip(before).map(|(a, b)| a - b).collect();
        (moved, log[0].grad_norm)
    };
    let ((exact, exact_norm), (half, norm)) = (train(DType::F32), train(DType::F16));
    assert!((norm / exact_norm - 1.0).abs() < 0.02, "{norm} {exact_norm}");
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let apart = length(&mut exact.iter().zip(&half).map(|(a, b)| a - b));
    assert!(apart < 0.1 * length(&mut exact.iter().copied()), "{apart}");

    let mut toy = Toy::of(DType::F16, 1e-7);
    let batch = toy.next_batch(0, &mut Streams::new(9)).unwrap();
    let part = Part { images: 0..7, batch: 7 };
    let lost = toy.loss(&batch, &part).unwrap().backward(1.0).unwrap();
    assert_eq!(gradient_norm(&toy.params, &lost).unwrap(), 0.0, "they are too small");
}

/// All parameters' numbers.
fn flat(toy: &Toy) -> Vec<f64> {
    let bits = toy.bits().into_iter().flat_map(|(_, bits)| bits);
    bits.map(|bits| f64::from(f32::from_bits(bits))).collect()
}

#[test]
fn steps_whose_gradients_leave_f16_are_skipped() {
    let mut toy = Toy::of(DType::F16, 10.0);
    toy.poison = Some(7);
    let before = toy.bits();
    let mut trainer = toy.trainer("all", config(9));
    run_until(&mut trainer, &mut toy, 1).unwrap_err();
    assert!(toy.bits() == before);
    let log = run(&mut trainer, &mut toy).unwrap();
    let skipped = log.iter().map(|p| !p.grad_norm.is_finite());
    // while the scale is too large, and where the batch itself is not finite
    let too_large = log.iter().take_while(|p| !p.grad_norm.is_finite()).count();
    assert!((1..6).contains(&too_large), "{log:?}");
    assert!(
        skipped.enumerate().all(|(i, skipped)| skipped == (i < too_large || i == 6)),
        "{log:?}"
    );
    assert_eq!(trainer.adamw.steps(), trainer.step() - too_large as u64 - 2);
    assert!(toy.bits() != before);
}

#[test]
fn f16_that_never_gives_finite_numbers_diverges() {
    let mut toy = Toy::of(DType::F16, f64::INFINITY);
    let before = toy.bits();
    let mut trainer = toy.trainer("all", config(40));
    let error = run(&mut trainer, &mut toy).unwrap_err();
    assert!(matches!(error, Error::Diverged(_)));
    assert!(error.to_string().contains("--dtype bf16"), "{error}");
    assert_eq!(trainer.step(), 16, "the scale was halved so often before it fell below 1");
    assert!(toy.bits() == before);
}

#[test]
fn states_say_nothing_of_a_scale_where_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    // so that states from before there was one are still read
    let state = std::fs::read(saved(dir.path())).unwrap();
    assert!(!state.windows(10).any(|bytes| bytes == b"loss_scale"));
}

/// A folder with one state, after two steps; its path.
fn saved(dir: &Path) -> std::path::PathBuf {
    let mut toy = Toy::new();
    let checkpoints = Checkpoints::new(dir, "toy");
    let mut trainer =
        toy.trainer("out.*", config(2)).with_checkpoints(checkpoints.clone()).unwrap();
    run(&mut trainer, &mut toy).unwrap();
    checkpoints.list().unwrap().pop().unwrap()
}

fn refusal(dir: &Path, train: &str, run: &str, config: TrainConfig) -> String {
    let toy = Toy::new();
    let before = toy.bits();
    let trainer = toy.trainer(train, config);
    let error = trainer.with_checkpoints(Checkpoints::new(dir, run)).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Input { hint: Some(_), .. }), "{error:?}");
    assert!(toy.bits() == before, "nothing has changed");
    error.to_string()
}

#[test]
fn damaged_states_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = saved(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let step = whole.windows(7).position(|w| w == b"\"step\\\"" || w == b"step\\\":").unwrap();
    for bytes in [
        whole[..whole.len() - 1].to_vec(),
        whole[..100].to_vec(),
        vec![],
        flipped(whole.len() - 2),
        flipped(0),
        flipped(step + 7),
        [&whole[..], &[0; 4]].concat(),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let text = refusal(dir.path(), "out.*", "toy", config(2));
        assert!(text.contains("not a whole training state"), "{text}");
        assert!(text.contains("step-00000002"), "{text}");
    }
    std::fs::write(&path, vec![0; 10_000_000]).unwrap();
    let text = refusal(dir.path(), "out.*", "toy", config(2));
    assert!(text.contains("bytes"), "{text}");
}

#[test]
fn states_of_other_runs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    assert!(refusal(dir.path(), "out.*", "other", config(2)).contains("another run"));
    assert!(refusal(dir.path(), "all", "toy", config(2)).contains("no tensor `value.conv.weight`"));
    assert!(refusal(dir.path(), "out.weight", "toy", config(2)).contains("out.bias` has no place"));
    let plain = TrainConfig { ema: None, ..config(2) };
    assert!(refusal(dir.path(), "out.*", "toy", plain).contains("ema."));
}

/// Saves states for as long as it lives; run by the test below.
#[test]
#[ignore]
fn save_for_ever() {
    let Some(dir) = std::env::var_os("CDBENCH_TEST_STATES") else { return };
    let mut toy = Toy::new();
    let checkpoints =
        Checkpoints { every_steps: Some(1), ..Checkpoints::new(Path::new(&dir), "toy") };
    let config = TrainConfig { steps: u64::MAX, ..TrainConfig::default() };
    let mut trainer = toy.trainer("all", config).with_checkpoints(checkpoints).unwrap();
    run(&mut trainer, &mut toy).unwrap();
}

#[test]
fn a_killed_run_goes_on_from_a_whole_state() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(dir.path(), "toy");
    let latest = || checkpoints.list().unwrap().pop();
    for milliseconds in [0, 3, 7, 12, 20] {
        let before = latest();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "train::trainer::tests::save_for_ever"])
            .env("CDBENCH_TEST_STATES", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while latest() == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        let config = TrainConfig { steps: u64::MAX, ..TrainConfig::default() };
        let trainer = Toy::new().trainer("all", config);
        let trainer = trainer.with_checkpoints(checkpoints.clone()).unwrap();
        let name = format!("step-{:08}.safetensors", trainer.step());
        assert!(latest() > before && latest().unwrap().ends_with(name));
    }
}
