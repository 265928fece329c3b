//! What the program says of a machine and of files, and judges that come by hub id.

mod common;

use std::path::Path;
use std::process::Output;

use common::path;
use serde_json::Value;

/// Runs with a cache of the hub's models, and without a network.
fn cdbench(cache: &Path, args: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cdbench"));
    command.args(args).env("HF_HUB_CACHE", cache).env("HF_HUB_OFFLINE", "1");
    command.env_remove("ORT_DYLIB_PATH").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A golden CLIP as the hub's cache has a model.
fn cached_clip(cache: &Path) {
    let model = cache.join("models--owner--clip");
    let snapshot = model.join("snapshots/0123456789abcdef");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(model.join("refs")).unwrap();
    std::fs::write(model.join("refs/main"), "0123456789abcdef").unwrap();
    for entry in std::fs::read_dir(path("clip_towers/patch8")).unwrap().map(|e| e.unwrap()) {
        std::fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
    }
}

#[test]
fn mini_is_whole_and_methods_need_what_they_train() {
    let cache = tempfile::tempdir().unwrap();
    let output = cdbench(cache.path(), &["doctor", "--json", "--ort", "tract", "--device", "cpu"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    for thing in ["device", "onnx", "hub", "backbone", "judge"] {
        assert_eq!(found[thing]["usable"], true, "{thing}: {}", found[thing]);
    }
    assert!(found["onnx"]["what"].as_str().unwrap().starts_with("tract"));
    assert!(found["backbone"]["what"].as_str().unwrap().contains("64x64"));
    let methods = found["methods"].as_array().unwrap();
    let total = |name: &str| {
        let method = methods.iter().find(|m| m["method"] == name).unwrap();
        let sum = ["weights", "trained", "working"].map(|part| method[part].as_u64().unwrap());
        assert_eq!(method["total"].as_u64().unwrap(), sum.iter().sum::<u64>(), "{name}");
        method["total"].as_u64().unwrap()
    };
    let order = ["pretrained", "textual-inversion", "custom-diffusion", "fine-tune-all"];
    assert!(order.map(total).is_sorted(), "{methods:?}");
    let larger = ["doctor", "--json", "--ort", "tract", "--device", "cpu", "--size", "256"];
    let larger = cdbench(cache.path(), &larger);
    let larger: Value = serde_json::from_slice(&larger.stdout).unwrap();
    let working = |found: &Value| found["methods"][6]["working"].as_u64().unwrap();
    // sixteen times the pixels, of fewer images at once
    assert!(working(&larger) > 2 * working(&found), "{larger}");

    // a GPU's: whole batches, whatever the number of threads; half the bytes; what does not fit is said
    let on_gpu = |dtype: &str, batch: &str, memory: &str| {
        let args = ["doctor", "--json", "--ort", "tract", "--device", "cpu", "--dtype", dtype];
        let more = ["--gpu-memory", memory, "--batch", batch];
        let found = cdbench(cache.path(), &[&args[..], &more].concat());
        let found: Value = serde_json::from_slice(&found.stdout).unwrap();
        let methods = found["methods"].as_array().unwrap().iter();
        methods.clone().find(|m| m["method"] == "custom-diffusion").unwrap().clone()
    };
    let number = |method: &Value, key: &str| method[key].as_u64().unwrap() as f64;
    let (wide, half) = (on_gpu("f32", "8", "80"), on_gpu("bf16", "8", "80"));
    let ratio = number(&half, "working") / number(&wide, "working");
    assert!((0.45..0.6).contains(&ratio), "{wide} {half}");
    assert!(number(&half, "least") < 0.8 * number(&half, "total"), "{half}");
    assert!(number(&on_gpu("bf16", "16", "80"), "working") > 1.8 * number(&half, "working"));
    assert_eq!(
        (&half["fits"], &half["fits_checkpointed"]),
        (&Value::from(true), &Value::from(true))
    );
    let between = (number(&half, "total") + number(&half, "least")) / 2.0 / f64::from(1 << 30);
    let tight = on_gpu("bf16", "8", &between.to_string());
    assert_eq!(tight["fits_checkpointed"], true, "{tight}");

    let said = cdbench(cache.path(), &["doctor", "--ort", "tract"]);
    let said = text(&said.stdout);
    for line in ["processor", "hub cache", "no model", "custom-diffusion"] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn a_judge_by_hub_id_comes_from_the_cache_or_is_said_where_to_get() {
    let cache = tempfile::tempdir().unwrap();
    let doctor = ["doctor", "--ort", "tract", "--clip", "owner/clip"];
    let missing = cdbench(cache.path(), &doctor);
    assert_eq!(missing.status.code(), Some(3));
    let said = text(&missing.stdout) + &text(&missing.stderr);
    let shown = cache.path().display().to_string();
    for part in ["hf download owner/clip", "models--owner--clip", &shown, "transformers' layout"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(said.contains("custom-diffusion"), "the rest is said, too: {said}");

    cached_clip(cache.path());
    let found = cdbench(cache.path(), &doctor);
    assert!(found.status.success(), "{}", text(&found.stderr));
    assert!(text(&found.stdout).contains("pictures and texts"), "{}", text(&found.stdout));

    // the same from the command that judges, and from an experiment, whose paths start at its folder
    let out = tempfile::tempdir().unwrap();
    let samples = out.path().join("samples");
    std::fs::create_dir_all(&samples).unwrap();
    let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 9]));
    picture.save(samples.join("0.png")).unwrap();
    std::fs::write(out.path().join("prompts.json"), r#"{"0": "a dog"}"#).unwrap();
    let (folder, targets) = (out.path().display().to_string(), samples.display().to_string());
    let args = ["evaluate", &folder, "--targets", &targets, "--ort", "tract"];
    let by_id = cdbench(cache.path(), &[&args[..], &["--clip", "owner/clip"]].concat());
    let by_path = path("clip_towers/patch8");
    let by_path = cdbench(cache.path(), &[&args[..], &["--clip", &by_path]].concat());
    assert!(by_id.status.success(), "{}", text(&by_id.stderr));
    assert_eq!((by_id.stdout, by_id.stderr), (by_path.stdout, by_path.stderr));

    let file = out.path().join("small.toml");
    let experiment = "name = \"small\"\ntitle = \"x\"\nmetrics = [\"image-alignment@dino\"]\n\
                      rows = [{ method = \"pretrained\" }]\n[extractors]\ndino = \"owner/clip\"\n\
                      [scales.default]\nconcepts = [\"dog_plum\"]\n";
    std::fs::write(&file, experiment).unwrap();
    let store = out.path().join("store").display().to_string();
    let file = file.display().to_string();
    let args = ["run", &file, "--store", &store, "--dry-run", "--ort", "tract"];
    let planned = cdbench(cache.path(), &args);
    assert!(planned.status.success(), "{}", text(&planned.stderr));
    let empty = tempfile::tempdir().unwrap();
    let said = text(&cdbench(empty.path(), &args).stderr);
    assert!(said.contains("hf download owner/clip"), "{said}");
}

#[test]
fn what_is_named_and_cannot_be_used_is_said_and_ends_with_its_error() {
    let cache = tempfile::tempdir().unwrap();
    let output = cdbench(cache.path(), &["doctor", "--backbone", "nowhere", "--ort", "tract"]);
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stdout);
    assert!(said.contains("NOT USABLE") && said.contains("nowhere"), "{said}");
    assert!(said.contains("no judge of its own") && said.contains("ONNX"), "{said}");
}
