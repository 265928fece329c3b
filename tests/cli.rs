//! The program from outside: what it prints, what it refuses, and with which exit code.

mod common;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use candle_core::{Device, Tensor};
use common::path;

fn cdbench(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("cdbench").unwrap();
    command.args(args).env("HF_HUB_OFFLINE", "1");
    command
}

/// Runs, and returns stderr of a run that must end with `code`.
#[track_caller]
fn refused(args: &[&str], code: i32) -> String {
    let output = cdbench(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

fn sample_args<'a>(backbone: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args =
        vec!["sample", "--backbone", backbone, "--prompt", "a dog", "--steps", "2", "-o", out];
    args.extend(more);
    args
}

/// A copy of a golden backbone to spoil.
fn copy(name: &str, to: &Path) {
    fn walk(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    walk(Path::new(&path(name)), to);
}

#[test]
fn samples_are_the_same_for_any_number_of_threads_and_say_how_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let run = |threads: &str, out: &str| {
        let out = dir.path().join(out);
        let backbone = path("sd1");
        let args = sample_args(
            &backbone,
            out.to_str().unwrap(),
            &["--num", "5", "--seed", "9", "--scheduler", "dpm++", "--threads", threads],
        );
        let output = cdbench(&args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let names = String::from_utf8(output.stdout).unwrap();
        assert_eq!(names.lines().count(), 5, "stdout names the images");
        names.lines().map(|name| fs::read(name).unwrap()).collect::<Vec<_>>()
    };
    let one = run("1", "one");
    assert!(one == run("2", "two"));
    let text = String::from_utf8_lossy(&one[3]).into_owned();
    for said in ["a dog", "dpm++", "12"] {
        assert!(text.contains(said), "{said}");
    }
}

#[test]
fn given_noise_takes_the_seeds_place() {
    let dir = tempfile::tempdir().unwrap();
    let (backbone, file) = (path("sd1"), dir.path().join("noise.safetensors"));
    let noise = Tensor::zeros((1, 4, 16, 16), candle_core::DType::F32, &Device::Cpu).unwrap();
    let write = |key: &str, noise: &Tensor| {
        candle_core::safetensors::save(&[(key, noise.clone())].into(), &file).unwrap();
    };
    let run = |seed: &str| {
        let out = dir.path().join(format!("{seed}.png"));
        let args = sample_args(
            &backbone,
            out.to_str().unwrap(),
            &["--latents", file.to_str().unwrap(), "--seed", seed],
        );
        cdbench(&args).assert().success();
        image::open(out).unwrap().to_rgb8().into_raw()
    };
    write("latents", &noise);
    assert_eq!(run("1"), run("2"));

    let out = dir.path().join("x.png");
    let args =
        sample_args(&backbone, out.to_str().unwrap(), &["--latents", file.to_str().unwrap()]);
    write("noise", &noise);
    assert!(refused(&args, 3).contains("no tensor `latents`"));
    write("latents", &noise.narrow(2, 0, 8).unwrap());
    assert!(refused(&args, 3).contains("[4, 8, 16]"));
    fs::write(&file, b"not safetensors").unwrap();
    assert!(refused(&args, 3).contains("noise.safetensors"));
}

#[test]
fn sizes_devices_and_hub_ids_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let (backbone, out) = (path("sd1"), dir.path().join("x.png"));
    let out = out.to_str().unwrap();
    let sample = |more: &[&str], code| refused(&sample_args(&backbone, out, more), code);
    let odd = sample(&["--size", "33x32"], 3);
    assert!(odd.contains("33x32") && odd.contains("hint: "), "{odd}");
    sample(&["--size", "0x32"], 3);
    sample(&["--size", "100000x100000"], 3);
    let none = ["sample", "--backbone", &backbone, "--prompt", "a", "--steps", "0", "-o", out];
    refused(&none, 3);
    if !cfg!(feature = "cuda") {
        let cuda = sample(&["--device", "cuda"], 5);
        assert!(cuda.contains("--features cuda"), "{cuda}");
    }
    sample(&["--device", "cuda:99"], 5);
    assert!(sample(&["--device", "cpu", "--tf32"], 3).contains("NVIDIA"));
    let hub = refused(&sample_args("nobody/nothing", out, &[]), 3);
    assert!(hub.contains("nobody/nothing") && hub.contains("hint: "), "{hub}");
    refused(&sample_args("no/such/folder", out, &[]), 3);
    // clap's own
    cdbench(&sample_args(&backbone, out, &["--device", "tpu"])).assert().code(2);
    cdbench(&["smaple"]).assert().code(2);
}

#[test]
fn a_prompt_of_ten_thousand_words_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (backbone, out) = (path("sd1"), dir.path().join("x.png"));
    let prompt = "word ".repeat(10_000);
    cdbench(&["sample", "--backbone", &backbone, "--prompt", &prompt, "--steps", "1", "-o"])
        .arg(out)
        .assert()
        .success();
}

#[test]
fn spoiled_backbones() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.png");
    let spoiled = |what: &str, spoil: &dyn Fn(&Path)| {
        let folder = dir.path().join(what);
        copy("sd1", &folder);
        spoil(&folder);
        let stderr = refused(
            &sample_args(folder.to_str().unwrap(), out.to_str().unwrap(), &["--size", "32x32"]),
            3,
        );
        assert!(stderr.contains(folder.to_str().unwrap()), "{what} names the file: {stderr}");
        stderr
    };
    let edit = |file: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let file = folder.join(file);
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains(from), "{from} in {text}");
            fs::write(file, text.replacen(from, to, 1)).unwrap();
        }
    };
    let unet = "unet/diffusion_pytorch_model.safetensors";
    spoiled("truncated", &|folder| {
        let bytes = fs::read(folder.join(unet)).unwrap();
        fs::write(folder.join(unet), &bytes[..bytes.len() / 2]).unwrap();
    });
    let missing = spoiled("missing tensor", &|folder| {
        rewrite(&folder.join(unet), |t| {
            t.remove("conv_in.weight");
        })
    });
    assert!(missing.contains("conv_in.weight"), "{missing}");
    let shape = spoiled("misshapen tensor", &|folder| {
        rewrite(&folder.join(unet), |t| {
            let bias = t["conv_in.bias"].narrow(0, 0, 5).unwrap().contiguous().unwrap();
            t.insert("conv_in.bias".into(), bias);
        })
    });
    assert!(shape.contains("conv_in.bias") && shape.contains("[5]"), "{shape}");
    let extra = spoiled("extra tensor", &|folder| {
        rewrite(&folder.join(unet), |t| {
            let bias = t["conv_in.bias"].clone();
            t.insert("surprise".into(), bias);
        })
    });
    assert!(extra.contains("surprise"), "{extra}");
    let zero = spoiled(
        "zero channels",
        &edit("unet/config.json", "\"in_channels\": 4", "\"in_channels\": 0"),
    );
    assert!(zero.contains("in_channels"), "{zero}");
    let layers = spoiled(
        "many layers",
        &edit("unet/config.json", "\"layers_per_block\": 1", "\"layers_per_block\": 1000000000"),
    );
    assert!(layers.contains("layers_per_block"), "{layers}");
    let heads = spoiled(
        "heads",
        &edit("unet/config.json", "\"attention_head_dim\": 8", "\"attention_head_dim\": 7"),
    );
    assert!(heads.contains("attention_head_dim"), "{heads}");
    spoiled("no tokenizer", &|folder| fs::remove_dir_all(folder.join("tokenizer")).unwrap());
    spoiled("garbled json", &|folder| fs::write(folder.join("vae/config.json"), b"{").unwrap());
}

fn rewrite(file: &Path, change: impl Fn(&mut std::collections::HashMap<String, Tensor>)) {
    let mut tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, file).unwrap();
}

#[test]
fn bench_step_reports_its_work() {
    let backbone = path("sd1");
    let run = |train: &str, more: &[&str]| {
        let mut args = vec!["bench", "step", "--config", &backbone, "--train", train];
        args.extend(["--batch", "2", "--repeats", "1"]);
        args.extend(more);
        let output = cdbench(&args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let work = text.lines().find_map(|l| l.strip_prefix("work")).expect("a line of work");
        work.trim().split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let (kv, all, checkpointed) = (run("kv", &[]), run("all", &[]), run("kv", &["--checkpoint"]));
    assert!(kv < all, "frozen weights form no gradients: {kv} against {all} GFLOP");
    assert!(kv < checkpointed, "checkpointing computes again: {kv} against {checkpointed}");
    let missing = refused(&["bench", "step", "--config", "nowhere"], 3);
    assert!(missing.contains("sd15"), "{missing}");
}

#[test]
fn every_operation_and_whole_steps_agree_without_the_kernels() {
    let backbone = path("sd1");
    let args = ["bench", "parity", "--device", "cpu", "--channels", "32", "--side", "8"];
    let output = cdbench(&[&args[..], &["--backbone", &backbone]].concat()).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{found:#}");
    let rows = found["rows"].as_array().unwrap();
    assert!(rows.len() > 20 && rows.iter().all(|row| row["agrees"] == true), "{found:#}");
    assert!(rows.iter().any(|row| row["gradient"].as_f64() > Some(0.0)), "{found:#}");
}

#[cfg(unix)]
#[test]
fn who_has_seen_enough_of_what_is_printed_hears_of_no_error() {
    use std::io::Read;
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_cdbench"))
        .arg("licences")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 30];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"What cdbench contains"));
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()),
        (None, "")
    );
}
