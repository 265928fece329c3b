use super::*;
use crate::diffusion::config::read_object;
use crate::diffusion::tokenizer::Tokenizer;
use crate::diffusion::weights::save_weights;
use crate::diffusion::{BackboneFiles, BackboneSpec};
use candle_core::{DType, Device, Tensor};

/// A backbone folder with small configurations and one tensor a part.
pub(crate) fn backbone_folder(root: &Path) {
    let index = ModelIndex {
        tokenizer: ["transformers".into(), "PreTrainedTokenizerFast".into()],
        ..Default::default()
    };
    index.write(root).unwrap();
    let text = TextEncoderConfig {
        vocab_size: 6,
        hidden_size: 32,
        num_attention_heads: 4,
        max_position_embeddings: 8,
        ..Default::default()
    };
    text.write(root).unwrap();
    let unet = UNetConfig {
        cross_attention_dim: crate::diffusion::config::PerBlock::All(32),
        ..Default::default()
    };
    unet.write(root).unwrap();
    VaeConfig::default().write(root).unwrap();
    SchedulerConfig::default().write(root).unwrap();
    Tokenizer::word_level(&["a", "dog"], 8).unwrap().save(&root.join("tokenizer")).unwrap();
    for part in Part::ALL {
        let one = Tensor::ones(1, DType::F32, &Device::Cpu).unwrap();
        let file = root.join(part.name()).join(format!("{}.safetensors", stem(part)));
        save_weights(&file, [("w".into(), one, DType::F32)]).unwrap();
    }
}

fn edit(
    root: &Path,
    file: &str,
    change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) {
    let path = root.join(file);
    let mut object = read_object(&path).unwrap();
    change(&mut object);
    std::fs::write(path, serde_json::to_string(&object).unwrap()).unwrap();
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_whole_folder_opens() {
    let dir = tempfile::tempdir().unwrap();
    backbone_folder(dir.path());
    assert_eq!(missing(dir.path()), Vec::<String>::new());
    let backbone = BackboneFiles::open(&dir.path().to_str().unwrap().into()).unwrap();
    assert_eq!(backbone.blueprint.tokenizer.max_len(), 8);
    for part in Part::ALL {
        backbone.weights(part).unwrap().tensor("w", &[1]).unwrap();
    }
}

#[test]
fn parts_must_fit_each_other() {
    for (file, key, value, words) in [
        ("unet/config.json", "cross_attention_dim", 64, ["cross_attention_dim", "64", "32"]),
        ("unet/config.json", "in_channels", 9, ["in_channels", "9", "4"]),
        ("vae/config.json", "latent_channels", 8, ["latent_channels", "8", "4"]),
        ("text_encoder/config.json", "vocab_size", 5, ["vocab_size", "6", "5"]),
        (
            "text_encoder/config.json",
            "max_position_embeddings",
            7,
            ["max_position_embeddings", "8", "7"],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        backbone_folder(dir.path());
        edit(dir.path(), file, |object| {
            object.insert(key.into(), value.into());
        });
        let error = message(BackboneFiles::open_folder(dir.path()));
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn a_padded_table_takes_new_tokens_behind_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    backbone_folder(dir.path());
    edit(dir.path(), "text_encoder/config.json", |object| {
        object.insert("vocab_size".into(), 64.into());
    });
    let folder = BackboneFiles::open_folder(dir.path()).unwrap();
    let mut tokenizer = folder.blueprint.tokenizer.clone();
    assert_eq!(tokenizer.encode_words("a dog").unwrap(), [4, 5]);
    assert_eq!(tokenizer.add_token("<new1>").unwrap(), 64);
    assert_eq!(tokenizer.encode_words("a <new1> dog").unwrap(), [4, 64, 5]);
}

#[test]
fn what_is_missing_is_named() {
    for file in [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
    ] {
        let dir = tempfile::tempdir().unwrap();
        backbone_folder(dir.path());
        std::fs::remove_file(dir.path().join(file)).unwrap();
        let folder = file.split('/').next().unwrap();
        assert!(message(BackboneFiles::open_folder(dir.path())).contains(folder));
        assert!(missing(dir.path())[0].starts_with(folder));
    }
    let dir = tempfile::tempdir().unwrap();
    backbone_folder(dir.path());
    std::fs::remove_file(dir.path().join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(missing(dir.path()), ["vae/diffusion_pytorch_model.safetensors"]);
    let backbone = BackboneFiles::open_folder(dir.path()).unwrap();
    assert!(
        message(backbone.weights(Part::Vae)).contains("vae: diffusion_pytorch_model.safetensors")
    );
}

#[test]
fn missing_shards_are_named() {
    let dir = tempfile::tempdir().unwrap();
    backbone_folder(dir.path());
    std::fs::remove_file(dir.path().join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    std::fs::write(
        dir.path().join("unet/diffusion_pytorch_model.safetensors.index.json"),
        r#"{"weight_map": {"a": "s-1.safetensors", "b": "s-2.safetensors", "c": "s-1.safetensors"}}"#,
    )
    .unwrap();
    assert_eq!(missing(dir.path()), ["unet/s-1.safetensors", "unet/s-2.safetensors"]);
}

#[test]
fn neither_folder_nor_hub_id_is_an_error() {
    for name in ["/nowhere/at/all", "nowhere", "./a/b", "~/models/sd", ""] {
        let error = BackboneFiles::open(&name.into()).err().unwrap();
        assert!(error.to_string().contains("no such file or folder"), "{error}");
        assert!(error.hint().unwrap().contains("owner/name"));
    }
    let empty = tempfile::tempdir().unwrap();
    let given = BackboneSpec { config: Some("x".into()), ..empty.path().to_str().unwrap().into() };
    assert!(message(BackboneFiles::open(&given)).contains("configurations"));
    assert!(message(BackboneFiles::open_folder(empty.path())).contains("model_index.json"));
}

fn listed(files: &[&str]) -> Vec<String> {
    let common = [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ];
    common.iter().chain(files).map(|file| (*file).to_owned()).collect()
}

#[test]
fn only_what_is_needed_is_downloaded() {
    let files = listed(&[
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "v1-5-pruned.ckpt",
        "safety_checker/model.safetensors",
        "tokenizer/special_tokens_map.json",
    ]);
    let wanted = wanted(&files).unwrap();
    assert!(wanted.contains(&"unet/diffusion_pytorch_model.safetensors".into()));
    assert!(wanted.contains(&"tokenizer/special_tokens_map.json".into()));
    assert_eq!(wanted.len(), 11);
    assert!(
        !wanted.iter().any(|f| f.contains("fp16") || f.contains("bin") || f.contains("safety"))
    );
}

#[test]
fn shards_and_variants_are_downloaded_where_nothing_better_is() {
    let shards = listed(&[
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model-../../x.safetensors",
        "unet/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
    ]);
    let found = wanted(&shards).unwrap();
    assert_eq!(found.iter().filter(|file| file.contains("-0000")).count(), 2);
    assert!(!found.iter().any(|file| file.contains("..")));

    for variant in ["fp16", "bf16", "non_ema"] {
        let own = format!("unet/diffusion_pytorch_model.{variant}.safetensors");
        assert!(wanted(&listed(&[&own])).unwrap().contains(&own));
        let stem = "unet/diffusion_pytorch_model";
        for (index, shard) in [
            (format!("safetensors.index.{variant}"), format!(".{variant}-00001-of-00001")),
            (format!("safetensors.{variant}.index"), format!("-00001-of-00001.{variant}")),
        ] {
            let files = [format!("{stem}.{index}.json"), format!("{stem}{shard}.safetensors")];
            let plain = format!("{stem}-00001-of-00001.safetensors");
            let found = wanted(&listed(&[&files[0], &files[1], &plain])).unwrap();
            assert!(
                files.iter().all(|f| found.contains(f)) && !found.contains(&plain),
                "{found:?}"
            );
        }
    }
    assert_eq!(wanted(&listed(&[])).unwrap_err(), "unet/diffusion_pytorch_model.safetensors");
    assert_eq!(wanted(&[]).unwrap_err(), "model_index.json");
}
