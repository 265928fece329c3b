//! `cdbench bench parity`: a device's operations and steps beside those of the CPU's kernels.

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use crate::cli::device::DeviceArgs;
use crate::diffusion::scheduler::{NoiseSchedule, SchedulerKind};
use crate::diffusion::{Backbone, BackboneFiles, Request, Sampling};
use crate::nn::{Gradients, Padding, Param, Var, all_finite, ops, reference};
use crate::rng::Rng;
use crate::train::{LossScale, Trainable, gradients, loss};
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  cdbench bench parity --device cuda
  cdbench bench parity --device cpu                  candle's operations on the CPU";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    on: DeviceArgs,

    /// Channels of the operations' maps
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(32..))]
    channels: u16,

    /// Height and width of the operations' maps
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(4..=128))]
    side: u16,

    /// The backbone of the steps: mini, a folder in diffusers' layout, a single file, or a hub id
    #[arg(long, default_value = crate::mini::NAME)]
    backbone: String,

    /// Side of the steps' images in pixels [default: what the backbone was trained at]
    #[arg(long)]
    resolution: Option<usize>,
}

/// What was compared. Differences are of the worst number, in parts of the greatest.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    /// Of the result.
    value: f64,
    /// Of gradients: the worst of them.
    gradient: Option<f64>,
    agrees: bool,
}

/// The largest differences that agree, of results and of gradients.
#[derive(Clone, Copy, Serialize)]
struct Tolerance {
    value: f64,
    gradient: f64,
}

impl Tolerance {
    /// f32's are those of the golden tests; the others are a few of the type's steps.
    fn of(dtype: DType, tf32: bool) -> Self {
        match (dtype, tf32) {
            (DType::BF16, _) => Tolerance { value: 4e-2, gradient: 1e-1 },
            (DType::F16, _) | (_, true) => Tolerance { value: 1e-2, gradient: 3e-2 },
            _ => Tolerance { value: 1e-4, gradient: 1e-3 },
        }
    }
}

/// Runs `cdbench bench parity`: prints JSON, and fails if something differs.
pub fn run(args: &Args) -> Result<()> {
    let device = args.on.open()?;
    if !args.channels.is_multiple_of(32) {
        return Err(Error::input_hint("--channels: a group norm has 32 groups", "use 64 or 320"));
    }
    let tolerance = Tolerance::of(args.on.dtype, args.on.tf32);
    let mut rows = vec![];
    for case in cases(args.channels.into(), args.side.into()) {
        let exact = case.run(&Device::Cpu, DType::F32)?;
        let found = elsewhere(&device, || case.run(&device, args.on.dtype))?;
        let mut differences = vec![];
        for (found, exact) in found.iter().zip(&exact) {
            differences.push(difference(found, exact)?);
        }
        let gradient = differences[1..].iter().copied().fold(0.0, f64::max);
        rows.push(row(case.name, differences[0], Some(gradient), tolerance));
    }
    rows.extend(steps(args, &device, tolerance)?);
    let differing = rows.iter().filter(|row| !row.agrees).count();
    let found = serde_json::json!({
        "device": format!("{:?}", device.location()),
        "dtype": format!("{:?}", args.on.dtype),
        "tf32": args.on.tf32,
        "tolerance": tolerance,
        "rows": rows,
    });
    println!("{found:#}");
    match differing {
        0 => Ok(()),
        n => Err(Error::Regressed(format!("{n} of {} differ from the CPU's kernels", rows.len()))),
    }
}

fn row(name: &'static str, value: f64, gradient: Option<f64>, tolerance: Tolerance) -> Row {
    // not a number agrees with nothing
    let agrees = value <= tolerance.value && gradient.is_none_or(|g| g <= tolerance.gradient);
    Row { name, value, gradient, agrees }
}

/// `f` as a device runs it: on the CPU, with candle's operations.
fn elsewhere<T>(device: &Device, f: impl FnOnce() -> T) -> T {
    if device.is_cpu() { reference(f) } else { f() }
}

/// The greatest difference in parts of the greatest number.
fn difference(found: &Tensor, exact: &Tensor) -> Result<f64> {
    let wide = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all();
    let greatest = |x: Tensor| x.abs()?.max(0)?.to_scalar::<f32>();
    let (found, exact) = (wide(found)?, wide(exact)?);
    let difference = greatest((found - &exact)?)?;
    Ok(f64::from(difference) / f64::from(greatest(exact)?).max(f64::MIN_POSITIVE))
}

/// An operation on `x` and parameters.
struct Case {
    name: &'static str,
    x: Vec<usize>,
    params: Vec<Vec<usize>>,
    f: Box<Operation>,
}

type Operation = dyn Fn(&Var, &[Param]) -> candle_core::Result<Var>;

impl Case {
    /// The result and the gradients of `x` and of the parameters under a random weighting, on the CPU.
    fn run(&self, device: &Device, dtype: DType) -> Result<Vec<Tensor>> {
        let random = |name: &str, shape: &[usize]| -> candle_core::Result<Tensor> {
            Rng::new(5, name).normal(shape, &Device::Cpu)?.to_device(device)
        };
        let x = Var::leaf(random("x", &self.x)?.to_dtype(dtype)?);
        let mut params = vec![];
        for (i, shape) in self.params.iter().enumerate() {
            // of products of many numbers, too, results are of magnitude 1
            let inputs: usize = shape.iter().skip(1).product();
            let value = (random(&format!("{i}"), shape)? / (inputs as f64).sqrt())?;
            let param = Param::new(format!("{i}"), &value, dtype)?;
            param.set_trainable(true)?;
            params.push(param);
        }
        let y = ops::to_dtype(&(self.f)(&x, &params)?, DType::F32)?;
        let value = y.value().to_device(&Device::Cpu)?;
        let weights = Var::constant(random("weights", y.dims())?);
        let loss = ops::composed([&ops::mul(&y, &weights)?], |[y]| y.sum_all())?;
        drop(y);
        let gradients = loss.backward(1.0)?;
        let mut found = vec![value];
        found.extend(gradients.get(&x).cloned());
        for param in &params {
            found.extend(param.grad_to_file(&gradients)?);
        }
        Ok(found)
    }
}

/// All operations of the networks, on images of `c` channels and their pixels as tokens.
fn cases(c: usize, side: usize) -> Vec<Case> {
    type F = fn(&Var, &[Param]) -> candle_core::Result<Var>;
    let image = vec![2, c, side, side];
    let tokens = vec![2, side * side, c];
    let case = |name, x: &[usize], params: &[&[usize]], f: F| Case {
        name,
        x: x.to_vec(),
        params: params.iter().map(|shape| shape.to_vec()).collect(),
        f: Box::new(f),
    };
    let conv = |name, size: usize, stride, padding| Case {
        name,
        x: image.clone(),
        params: vec![vec![c, c, size, size], vec![c]],
        f: Box::new(move |x, p| {
            ops::to_image(&ops::conv2d(&ops::from_image(x)?, &p[0], &p[1], stride, padding)?)
        }),
    };
    let attention = |name, heads, m: usize, causal| Case {
        name,
        x: tokens.clone(),
        params: vec![vec![2, m, c], vec![2, m, c]],
        f: Box::new(move |x, p| {
            // of magnitude 1 again, or all scores would be near 0 and none could be told from another
            let [k, v] = [&p[0], &p[1]].map(|p| ops::scale(&p.var()?, ((m * c) as f64).sqrt()));
            ops::attention(x, &k?, &v?, heads, causal)
        }),
    };
    let (after, none) = (Padding { before: 0, after: 1 }, Padding::same(0));
    vec![
        conv("convolution 3×3", 3, 1, Padding::same(1)),
        conv("convolution 3×3, stride 2", 3, 2, Padding::same(1)),
        conv("convolution 3×3, stride 2, padded behind", 3, 2, after),
        conv("convolution 1×1", 1, 1, none),
        case("linear", &tokens, &[&[2 * c, c], &[2 * c]], |x, p| {
            ops::linear(x, &p[0].var()?, Some(&p[1].var()?))
        }),
        case("group norm", &image, &[&[c], &[c]], |x, p| {
            let y =
                ops::group_norm(&ops::from_image(x)?, &p[0].var()?, &p[1].var()?, 32, 1e-5, false);
            ops::to_image(&y?)
        }),
        case("group norm and SiLU", &image, &[&[c], &[c]], |x, p| {
            let y =
                ops::group_norm(&ops::from_image(x)?, &p[0].var()?, &p[1].var()?, 32, 1e-5, true);
            ops::to_image(&y?)
        }),
        case("layer norm", &tokens, &[&[c], &[c]], |x, p| {
            ops::layer_norm(x, &p[0].var()?, &p[1].var()?, 1e-5)
        }),
        case("SiLU", &tokens, &[], |x, _| ops::silu(x)),
        case("GELU", &tokens, &[], |x, _| ops::gelu(x)),
        case("quick GELU", &tokens, &[], |x, _| ops::quick_gelu(x)),
        case("GEGLU", &tokens, &[], |x, _| ops::geglu(x)),
        attention("self attention", 4, side * side, false),
        attention("self attention, 8 heads", 8, side * side, false),
        attention("self attention, heads of 64", (c / 64).max(1), side * side, false),
        attention("causal attention", 4, side * side, true),
        attention("cross attention", 4, 77, false),
        case("channels side by side", &image, &[], |x, _| {
            let map = ops::from_image(x)?;
            ops::to_image(&ops::concat_channels(&map, &ops::scale(&map, 0.5)?)?)
        }),
        case("a number for each channel", &image, &[&[2, c]], |x, p| {
            ops::to_image(&ops::add_per_channel(&ops::from_image(x)?, &p[0].var()?)?)
        }),
        case("twice the resolution", &image, &[], |x, _| {
            ops::to_image(&ops::upsample_nearest_2x(&ops::from_image(x)?)?)
        }),
        case("pixels as tokens", &image, &[], |x, _| ops::map_to_tokens(&ops::from_image(x)?)),
        case("sum", &tokens, &[&tokens], |x, p| ops::add(x, &p[0].var()?)),
        case("product", &tokens, &[&tokens], |x, p| ops::mul(x, &p[0].var()?)),
        case("no gradient of the first token", &tokens, &[], |x, _| ops::detach_first_token(x)),
    ]
}

const CAPTIONS: [&str; 2] = ["photo of a <new1> dog", "a cat in the snow"];

/// A training step of keys and values, one of the whole UNet, and three steps of sampling.
fn steps(args: &Args, device: &Device, tolerance: Tolerance) -> Result<Vec<Row>> {
    let files = BackboneFiles::open(&args.backbone.as_str().into())?;
    let mut exact = with_token(Backbone::read(&files, &Device::Cpu, DType::F32)?)?;
    let mut found =
        elsewhere(device, || with_token(Backbone::read(&files, device, args.on.dtype)?))?;
    let size = args.resolution.map_or(files.blueprint.default_size(), |side| (side, side));
    let mut rows = vec![];
    for (name, train) in
        [("step of keys and values", "kv,tokens"), ("step of the whole UNet", "unet,tokens")]
    {
        let exact = step(&mut exact, train, size)?;
        let found = elsewhere(device, || step(&mut found, train, size))?;
        let mut worst = 0.0f64;
        for ((_, exact), (_, found)) in exact.1.iter().zip(&found.1) {
            worst = worst.max(difference(found, exact)?);
        }
        rows.push(row(name, (found.0 / exact.0 - 1.0).abs(), Some(worst), tolerance));
    }
    let exact = sample(&exact, size)?;
    let found = elsewhere(device, || sample(&found, size))?;
    rows.push(row("three steps of sampling", difference(&found, &exact)?, None, tolerance));
    Ok(rows)
}

fn with_token(mut backbone: Backbone) -> Result<Backbone> {
    let row = backbone.text_encoder.token_embedding(7)?.unsqueeze(0)?;
    backbone.tokenizer.add_token("<new1>")?;
    backbone.text_encoder.add_tokens(&row)?;
    Ok(backbone)
}

type Trained = Vec<(String, Tensor)>;

/// The loss, and the gradients of what `train` names, by name. In f16 the loss is scaled as in a training,
/// which goes on with a smaller scale where one gives what is not finite.
fn step(backbone: &mut Backbone, train: &str, size: (usize, usize)) -> Result<(f64, Trained)> {
    let components =
        [("unet", backbone.unet.params()), ("text_encoder", backbone.text_encoder.params())];
    let trained = train.parse::<Trainable>()?.apply(&components)?;
    let mut scale = LossScale::of(backbone.unet.compute_dtype());
    let found = loop {
        let (loss, gradients) =
            scaled_step(backbone, &trained, size, scale.map_or(1.0, |scale| scale.factor()))?;
        let mut finite = true;
        for (_, gradient) in &gradients {
            finite &= all_finite(gradient)?;
        }
        match scale {
            Some(last) if !finite && !last.is_exhausted() => scale = Some(last.after(false)),
            _ => break (loss, gradients),
        }
    };
    trained.iter().try_for_each(|param| param.set_trainable(false))?;
    Ok(found)
}

/// The loss and the gradients of `trained`, of a loss that was multiplied with `factor` on the way.
fn scaled_step(
    backbone: &Backbone,
    trained: &[Param],
    size: (usize, usize),
    factor: f64,
) -> Result<(f64, Trained)> {
    let device = backbone.device().clone();
    let (height, width) = backbone.latent_size(size.1, size.0)?;
    let shape = [CAPTIONS.len(), backbone.unet.config().in_channels, height, width];
    let random = |name: &str| Rng::new(6, name).normal(&shape[..], &Device::Cpu);
    let (latents, noise) =
        (random("latents")?.to_device(&device)?, random("noise")?.to_device(&device)?);
    let schedule = NoiseSchedule::new(&backbone.scheduler);
    let times = [schedule.len() / 4, schedule.len() / 2];
    let noised = schedule.add_noise(&latents, &noise, &times)?;
    let target = schedule.target(&latents, &noise, &times)?;
    let weights = (loss::mean_weights(shape[0], shape[1..].iter().product(), &device)? * factor)?;
    let ids: Result<Vec<Vec<u32>>> =
        CAPTIONS.iter().map(|caption| Ok(backbone.tokenizer.encode(caption)?.ids)).collect();
    let ids = ids?;
    let (value, gradients): (f64, Gradients) = gradients(shape[0], shape[0], &device, |_| {
        let text = backbone.text_encoder.forward(&ids)?;
        let times = times.map(|t| t as f64);
        let out = backbone.unet.forward(&Var::constant(noised.clone()), &times, &text)?;
        Ok(loss::squared_error(&out, &target, &weights)?)
    })?;
    let mut found = vec![];
    for param in trained {
        if let Some(gradient) = param.grad_to_file(&gradients)? {
            let gradient = (gradient.to_dtype(DType::F32)? / factor)?;
            found.push((param.name().to_owned(), gradient));
        }
    }
    Ok((value / factor, found))
}

/// Latents.
fn sample(backbone: &Backbone, (width, height): (usize, usize)) -> Result<Tensor> {
    let sampling = Sampling {
        steps: 3,
        guidance: 6.0,
        scheduler: SchedulerKind::Ddim,
        eta: 0.0,
        height,
        width,
        negative_prompt: String::new(),
    };
    let requests = CAPTIONS.map(|caption| Request::new(caption, 1));
    let samples = backbone.sample(&requests, &sampling, &|_| Ok(()))?;
    let latents: Vec<Tensor> = samples.into_iter().map(|sample| sample.latents).collect();
    Ok(Tensor::stack(&latents, 0)?)
}
