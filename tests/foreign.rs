//! What people's own files and habits bring, through the program: what it takes, and what it says.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use cdbench::Error;
use cdbench::diffusion::scheduler::SchedulerKind;
use cdbench::diffusion::{Backbone, Request, Sampling};
use common::path;
use image::{Rgb, RgbImage};

/// Runs, and returns the exit code, stdout and stderr.
fn cdbench(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cdbench"));
    let output = command.args(args).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn ok(args: &[&str]) -> (String, String) {
    let (code, out, err) = cdbench(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    (out, err)
}

struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Desk(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn picture(&self, name: &str, color: u8) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(40, 30, Rgb([color, 90, 30])).save(path).unwrap();
    }
}

fn load() -> Backbone {
    Backbone::load(&path("sd1"), &Device::Cpu, DType::F32).unwrap()
}

fn rewrite(file: &Path, change: impl Fn(&mut std::collections::HashMap<String, Tensor>)) {
    let mut tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, file).unwrap();
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn evaluation_sees_prompts_without_tokens_and_folders_without_clutter() {
    let desk = Desk::new();
    desk.picture("out/samples/0.png", 200);
    desk.picture("targets/a.png", 100);
    desk.picture("targets/more/b.png", 10);
    for clutter in ["out/samples/._0.png", "targets/._a.png", "targets/Thumbs.db"] {
        fs::write(desk.at(clutter), "left by a system").unwrap();
    }
    let (out, targets) = (desk.path("out"), desk.path("targets"));
    let table = |prompt: &str, more: &[&str]| {
        let prompts = serde_json::json!({ "0": prompt }).to_string();
        fs::write(desk.at("out/prompts.json"), "\u{feff}".to_owned() + &prompts).unwrap();
        ok(&[&["evaluate", &out, "--targets", &targets], more].concat())
    };
    let (plain, said) = table("photo of a () dog", &[]);
    assert!(said.contains("1 in folders below it") && said.contains("targets/more"), "{said}");
    assert_eq!(table("photo of a (<new1>) dog", &[]).0, plain);
    assert_eq!(table("photo of a (<cat-toy>) dog", &["--token", "<cat-toy>"]).0, plain);
    let (tagged, _) = table("photo of a <b>red</b> dog", &[]);
    assert_ne!(tagged, table("photo of a dog", &[]).0, "nothing but tokens is removed");
    let (_, long) = table(&"photo of a dog in the snow and ".repeat(9), &[]);
    assert!(long.contains("is not seen"), "{long}");
}

#[test]
fn folders_are_called_after_themselves_and_told_apart() {
    let desk = Desk::new();
    desk.picture("a/猫/0.png", 200);
    desk.picture("b/猫/0.png", 10);
    let [a, b] = ["a", "b"].map(|name| format!("{}:cat", desk.at(name).join("猫").display()));
    let (out, store) = (desk.path("both"), desk.path("store"));
    let mut args = vec!["train", "textual-inversion", "--concept", &a, "--concept", &b];
    args.extend(["--set", "steps=1", "-o", &out, "--store", &store]);
    let (_, said) = ok(&args);
    assert!(said.contains("<new1> cat (a-猫) and <new2> cat (b-猫)"), "{said}");
    let (code, _, said) = cdbench(&["train", "textual-inversion", "--concept", "a/b", "-o", &out]);
    assert!(code == 3 && said.contains("`a/b`") && said.contains("category"), "{said}");
}

#[test]
fn a_backbone_with_tokens_padding_and_a_sampler_of_its_own() {
    let desk = Desk::new();
    let folder = desk.at("backbone");
    let mut backbone = load();
    backbone.tokenizer.add_token("<new1>").unwrap();
    let row = backbone.text_encoder.token_embedding(5).unwrap().unsqueeze(0).unwrap();
    backbone.text_encoder.add_tokens(&row).unwrap();
    backbone.save(&folder, DType::F32).unwrap();
    // rows that no token has
    let key = "text_model.embeddings.token_embedding.weight";
    rewrite(&folder.join("text_encoder/model.safetensors"), |tensors| {
        let table = &tensors[key];
        let padding = table.narrow(0, 0, 15).unwrap();
        tensors.insert(key.into(), Tensor::cat(&[table, &padding], 0).unwrap());
    });
    let rows = backbone.tokenizer.vocab_size();
    let (from, to) = (format!("\"vocab_size\": {rows}"), format!("\"vocab_size\": {}", rows + 15));
    edit(&folder.join("text_encoder/config.json"), &from, &to);
    let class = format!("\"_class_name\": \"{}\"", backbone.scheduler._class_name);
    let scheduler = folder.join("scheduler/scheduler_config.json");
    edit(&scheduler, &class, "\"_class_name\": \"TCDScheduler\"");

    let (backbone, out, store) = (desk.path("backbone"), desk.path("dog"), desk.path("store"));
    let mut args = vec!["train", "textual-inversion", "--concept", "dog_plum", "--clip", "mini"];
    args.extend(["--backbone", &backbone, "--set", "steps=1", "-o", &out, "--store", &store]);
    let (_, said) = ok(&args);
    assert!(said.contains("<new2>") && desk.at("dog/<new2>.safetensors").is_file(), "{said}");

    let image = desk.path("x.png");
    let mut args = vec!["sample", "--backbone", &backbone, "--checkpoint", &out];
    args.extend(["--prompt", "a <new2> dog and <new1>", "--steps", "2", "-o", &image]);
    let (_, said) = ok(&args);
    assert!(said.contains("checkpoint: textual-inversion of <new2> dog (dog_plum)"), "{said}");
    assert!(said.contains("TCDScheduler") && !said.contains("no token"), "{said}");
    args.extend(["--scheduler", "ddim", "--force"]);
    assert!(!ok(&args).1.contains("TCDScheduler"), "a sampler was chosen");
}

#[test]
fn samples_say_what_a_prompt_lacks_and_which_tokens_there_are() {
    let desk = Desk::new();
    let (backbone, image) = (path("sd1"), desk.path("x.png"));
    let sample = |prompt: &str, more: &[&str]| {
        let mut args = vec!["sample", "--backbone", &backbone, "--prompt", prompt];
        args.extend(["--steps", "1", "--guidance", "1", "--force", "-o", &image]);
        cdbench(&[&args, more].concat())
    };
    assert!(sample("a <new1> dog", &[]).2.contains("`<new1>` is no token"));
    assert!(sample("", &[]).2.contains("the prompt is empty"));
    let (code, _, said) = sample(&"dog ".repeat(90), &[]);
    assert!(code == 0 && said.contains("77 tokens") && said.contains("is not seen"), "{said}");

    let width = load().text_encoder.config().hidden_size;
    let token = desk.at("my-cat.safetensors");
    let row = |value: f32| Tensor::full(value, (1, width), &Device::Cpu).unwrap();
    let write = |row: Tensor| {
        candle_core::safetensors::save(&[("emb_params", row)].into(), &token).unwrap();
    };
    write(row(0.01));
    let token = token.display().to_string();
    let (code, _, said) = sample("a my-cat", &["--checkpoint", &token]);
    assert!(code == 0 && said.contains("tokens of the checkpoint: my-cat"), "{said}");
    write(row(f32::NAN));
    let (code, _, said) = sample("a my-cat", &["--checkpoint", &token]);
    assert!(code == 3 && said.contains("emb_params") && said.contains("not finite"), "{said}");
}

#[test]
fn numbers_that_are_none_are_found_where_they_come_from() {
    let backbone = load();
    let (height, width) = backbone.latent_size(32, 32).unwrap();
    let latents = |value: f32| Some(Tensor::full(value, (4, height, width), &Device::Cpu).unwrap());
    let sample = |guidance, latents| {
        let sampling = Sampling {
            steps: 3,
            guidance,
            scheduler: SchedulerKind::Ddim,
            eta: 0.0,
            height: 32,
            width: 32,
            negative_prompt: String::new(),
        };
        let request = Request { latents, ..Request::new("a dog", 1) };
        backbone.sample(&[request], &sampling, &|_| Ok(())).map(|_| ())
    };
    sample(3.0, None).unwrap();
    let error = sample(3.0, latents(f32::NAN)).unwrap_err();
    assert!(
        matches!(error, Error::Input { .. }) && error.to_string().contains("latents"),
        "{error}"
    );
    let error = sample(3.0, latents(1e38)).unwrap_err();
    assert_eq!(error.exit_code(), 6);
    assert!(error.to_string().contains("of 3, of the prompt `a dog`"), "{error}");
}
