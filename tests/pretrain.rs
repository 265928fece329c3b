//! `cdbench pretrain` through its public door: all parts, with next to no steps, killed in between.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use cdbench::clip::{Clip, Vit};
use cdbench::diffusion::Backbone;

/// The shipped recipe with batches and steps so small that it takes seconds.
fn tiny(path: &Path) {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/mini/pretrain.toml");
    let mut recipe: toml::Table = std::fs::read_to_string(recipe).unwrap().parse().unwrap();
    for part in ["vae", "decoder", "unet", "clip", "identity"] {
        let part = recipe[part].as_table_mut().unwrap();
        part.insert("batch".into(), 4.into());
        part.insert("look_scenes".into(), 4.into());
        let train = part["train"].as_table_mut().unwrap();
        train.insert("steps".into(), 2.into());
        train.insert("images_per_part".into(), 4.into());
    }
    std::fs::write(path, recipe.to_string()).unwrap();
}

fn log_steps(out: &Path, part: &str) -> Vec<String> {
    let log = std::fs::read_to_string(out.join(part).join("log.csv")).unwrap_or_default();
    log.lines().skip(1).filter_map(|l| Some(l.split(',').next()?.to_owned())).collect()
}

#[test]
fn all_parts_make_a_backbone_and_its_judge_though_killed_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = (dir.path().join("tiny.toml"), dir.path().join("out"));
    tiny(&config);
    let all = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cdbench"));
        command.args(["pretrain", "all", "--config"]).arg(&config).arg("--out").arg(&out);
        command
    };

    // the judge comes behind the autoencoder and its decoder, and before the UNet
    let mut child = all().stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !out.join("mini/clip/config.json").is_file() {
        assert!(start.elapsed() < Duration::from_secs(300) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.join("mini/model_index.json").exists(), "it ended before it was killed");
    let weights = out.join("mini/vae/diffusion_pytorch_model.safetensors");
    let before = std::fs::read(&weights).unwrap();

    let again = all().output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    for part in ["vae", "decoder", "clip", "identity", "unet"] {
        assert_eq!(log_steps(&out, part), ["2"], "{part}");
        assert!(out.join(part).join("curves.png").is_file());
    }
    assert!(std::fs::read(&weights).unwrap() == before, "the autoencoder was not trained again");

    let folder = out.join("mini");
    Backbone::load(folder.to_str().unwrap(), &Device::Cpu, DType::F32).unwrap();
    Clip::load(&folder.join("clip"), &Device::Cpu).unwrap();
    Vit::load(&folder.join("dino"), &Device::Cpu).unwrap();
}

#[test]
fn a_key_that_means_nothing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("typo.toml");
    tiny(&config);
    let text = std::fs::read_to_string(&config).unwrap();
    let typo = text.replacen("look_scenes", "look_scene", 1);
    assert_ne!(text, typo);
    std::fs::write(&config, typo).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cdbench"));
    let out = command
        .args(["pretrain", "vae", "--config"])
        .arg(&config)
        .current_dir(&dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("look_scene`") && said.contains("did you mean look_scenes"), "{said}");
}
