//! `cdbench bench step --count`: what a GPU would be told to do, from shapes alone, and how long it would
//! take by the rates that its maker publishes.

use candle_core::{DType, Device, Tensor};

use super::{StepArgs, Train, architecture, latent_side, trained};
use crate::Result;
use crate::diffusion::model::{TextEncoder, UNet};
use crate::nn::device::{Kind, Launches, Shapes, count, hollow};
use crate::nn::{Builder, Var, no_grad};
use crate::train::{AdamW, AdamWConfig, Group, gradient_norm, gradients, loss};

/// An H100 SXM as its data sheet has it, without sparsity.
const BYTES_A_SECOND: f64 = 3.35e12;
const F32: f64 = 67e12;
const TF32: f64 = 494e12;
const BF16: f64 = 989e12;
/// What it costs the CPU to ask for a launch.
const LAUNCH: f64 = 5e-6;

/// Prints the counts of a training step and of a guided denoising step.
pub(super) fn run(args: &StepArgs) -> Result<()> {
    let dtype = if args.bf16 { DType::BF16 } else { DType::F32 };
    let (step, denoising) = counts(args, dtype)?;
    let what = match args.train {
        Train::Kv => "keys and values trained",
        Train::All => "all trained",
    };
    let checkpoint = if args.checkpoint { ", checkpointing" } else { "" };
    println!("Training step: batch {}, {what}{checkpoint}", args.batch);
    table(&step, dtype);
    println!("\nGuided denoising step: {} images, the UNet alone", args.batch);
    table(&denoising, dtype);
    println!(
        "\nCounted from shapes for a build with the feature cudnn. Bytes are those of operands in the GPU's \
         memory, each once a pass over it, as if no cache held them; FLOPs are those of products, \
         convolutions in their direct form; attention keeps its scores on the chip where there is a kernel \
         (in half precision, heads of at most 80 numbers), and is in blocks of 2^27 scores elsewhere. Times \
         are an H100's by its data sheet (3.35 TB/s; 67 TFLOP/s in f32, 494 in TF32, 989 in bf16): of each \
         operation the longest of memory, arithmetic and 5 µs a launch, one after another. Real kernels \
         reach a half to two thirds of these rates. What cuDNN adds to a convolution, the exponentials of \
         attention on the chip, transfers of token ids and the scheduler's few sums are left out."
    );
    Ok(())
}

/// The launches of a training step, and of a denoising step.
fn counts(args: &StepArgs, dtype: DType) -> Result<(Vec<Launches>, Vec<Launches>)> {
    let (result, _building) = count(|| {
        let (architecture, _) = architecture(&args.config)?;
        let builder = || Builder::new(Shapes(dtype), &Device::Cpu, dtype);
        let mut unet = UNet::new(&builder(), &architecture.unet)?;
        let mut text_encoder = TextEncoder::new(&builder(), &architecture.text_encoder)?;
        unet.set_checkpointing(args.checkpoint);
        unet.set_detach_start_of_text(args.train == Train::Kv);
        text_encoder
            .add_tokens(&hollow((1, architecture.text_encoder.hidden_size), DType::F32)?)?;
        let trained = trained(&unet, &text_encoder, args.train)?;
        let group = Group { params: trained.clone(), lr: 1e-5, weight_decay: 1e-2 };
        let mut optimizer = AdamW::new(AdamWConfig::default(), vec![group])?;

        let side = latent_side(&architecture, args.resolution)?;
        let length = architecture.text_encoder.max_position_embeddings;
        let images = |batch: usize| -> Result<Tensor> {
            Ok(hollow((batch, architecture.unet.in_channels, side, side), DType::F32)?)
        };
        let ids = |batch: usize| -> Vec<Vec<u32>> { vec![(0..length as u32).collect(); batch] };
        let batch = usize::from(args.batch);

        let (step, counted) = count(|| {
            let (_, gradients) = gradients(batch, batch, &Device::Cpu, |_| {
                let text = text_encoder.forward(&ids(batch))?;
                let latents = Var::constant(images(batch)?);
                let prediction = unet.forward(&latents, &vec![1.0; batch], &text)?;
                let weights = hollow((batch, 1, 1, 1), DType::F32)?;
                Ok(loss::squared_error(&prediction, &images(batch)?, &weights)?)
            })?;
            gradient_norm(&trained, &gradients)?;
            optimizer.step(&gradients, 1.0, 1.0)
        });
        step?;

        let text = Var::constant(hollow(
            (2 * batch, length, architecture.text_encoder.hidden_size),
            dtype,
        )?);
        let (denoised, denoising) = count(|| {
            let latents = Var::constant(images(2 * batch)?);
            no_grad(|| unet.forward(&latents, &vec![1.0; 2 * batch], &text))?;
            Result::Ok(())
        });
        denoised?;
        Ok((counted, denoising))
    });
    result
}

fn table(launches: &[Launches], dtype: DType) {
    let rates: &[(&str, f64)] = match dtype {
        DType::F32 => &[("f32, ms", F32), ("TF32, ms", TF32)],
        _ => &[("bf16, ms", BF16)],
    };
    print!("{:<14} {:>8} {:>8} {:>8}", "", "launches", "GB", "TFLOP");
    rates.iter().for_each(|(name, _)| print!(" {name:>9}"));
    println!();
    let line = |name: &str, launches: &[Launches]| {
        let sum = |f: fn(&Launches) -> usize| launches.iter().map(f).sum::<usize>();
        print!(
            "{name:<14} {:>8} {:>8.2} {:>8.3}",
            sum(|l| l.count),
            sum(|l| l.bytes) as f64 / 1e9,
            sum(|l| l.flops) as f64 / 1e12,
        );
        for (_, rate) in rates {
            // products of f32 within half precision, which upcast attention has
            let rate = |l: &Launches| if l.dtype == dtype { *rate } else { rate.min(F32) };
            let seconds: f64 = launches.iter().map(|l| seconds(l, rate(l))).sum();
            print!(" {:>9.1}", 1e3 * seconds);
        }
        println!();
    };
    for kind in Kind::ALL {
        let some: Vec<Launches> = launches.iter().filter(|l| l.kind == kind).copied().collect();
        if !some.is_empty() {
            line(kind.name(), &some);
        }
    }
    line("all", launches);
}

/// The longest of what memory, arithmetic and asking take.
fn seconds(l: &Launches, rate: f64) -> f64 {
    let (bytes, flops) = (l.bytes as f64, l.flops as f64);
    (bytes / BYTES_A_SECOND).max(flops / rate).max(l.count as f64 * LAUNCH)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::bench::Command;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn counted(rest: &str, dtype: DType) -> (Vec<Launches>, Vec<Launches>) {
        let line = format!("bench step --config sd15 --resolution 512 --count {rest}");
        let line = Line::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Step(args) = line.command else { panic!("a step is asked for") };
        counts(&args, dtype).unwrap()
    }

    fn of(launches: &[Launches], kind: Kind, f: fn(&Launches) -> usize) -> usize {
        launches.iter().filter(|l| l.kind == kind).map(f).sum()
    }

    /// The UNet of SD 1.5 has 22 residual blocks of two group norms, 16 transformers of a group norm and
    /// three layer norms, and a last group norm; one GEGLU in each transformer and two SiLU of the time.
    #[test]
    fn a_norm_and_an_activation_is_a_launch() {
        for dtype in [DType::F32, DType::BF16] {
            let (_, denoising) = counted("--batch 4", dtype);
            assert_eq!(of(&denoising, Kind::Norm, |l| l.count), 2 * 22 + 4 * 16 + 1);
            assert_eq!(of(&denoising, Kind::Activation, |l| l.count), 16 + 2);
            // 2 × 401 G multiplications of an image's step, as others count them, but for attention
            let flops: usize = denoising.iter().map(|l| l.flops).sum();
            let image = flops as f64 / 8.0;
            assert!((0.75e12..0.85e12).contains(&image), "{image:e}");
        }
    }

    #[test]
    fn half_precision_moves_half_as_much() {
        let bytes = |dtype| of(&counted("--batch 4", dtype).1, Kind::Convolution, |l| l.bytes);
        assert_eq!(bytes(DType::F32), 2 * bytes(DType::BF16));
    }

    #[test]
    fn work_grows_with_the_batch_and_launches_do_not() {
        for train in ["kv", "all"] {
            let rest = |batch: usize| format!("--train {train} --checkpoint --batch {batch}");
            let (one, _) = counted(&rest(1), DType::F32);
            let (two, _) = counted(&rest(2), DType::F32);
            for kind in [Kind::Norm, Kind::Activation, Kind::Product, Kind::Loss, Kind::Optimizer] {
                let count = |l: &[Launches]| of(l, kind, |l| l.count);
                assert_eq!(count(&one), count(&two), "{kind:?}");
            }
            for kind in [Kind::Product, Kind::Attention, Kind::Convolution] {
                let flops = |l: &[Launches]| of(l, kind, |l| l.flops);
                assert_eq!(2 * flops(&one), flops(&two), "{kind:?}");
            }
            assert!(of(&two, Kind::Optimizer, |l| l.bytes) > 0);
        }
    }
}
