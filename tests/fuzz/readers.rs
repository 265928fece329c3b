//! The readers, with files that they take.

#[path = "../asked/mod.rs"]
mod asked;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use asked::fixture;
use candle_core::{DType, Device, Tensor};
use cdbench::Result;
use cdbench::clip::{ClipConfig, Preprocessor};
use cdbench::data::{
    DatasetSpec, Manifest, OnCorrupt, corpus, read_pictures, read_prompts, read_prompts_json,
};
use cdbench::diffusion::config::{Config, SchedulerConfig, UNetConfig, VaeConfig};
use cdbench::diffusion::png::Png;
use cdbench::diffusion::tokenizer::Tokenizer;
use cdbench::diffusion::weights::{Pickled, Weights, save_pickle, save_weights};
use cdbench::diffusion::{BackboneFiles, Part, WordMap, load_maps, save_maps};
use cdbench::engine::read_image;
use cdbench::methods::Delta;
use cdbench::report::Baseline;
use cdbench::rng::Rng;
use cdbench::spec::Experiment;
use cdbench::study::{Collected, Key, Ledger, Options};
use image::{ImageFormat, RgbImage};

/// A reader of files, and what it is given.
pub struct Reader {
    pub name: &'static str,
    /// Parts in a hundred of all inputs.
    pub share: usize,
    /// The file in the reader's folder that changes.
    pub file: &'static str,
    /// Others that are there as they should be.
    pub beside: Vec<(&'static str, Vec<u8>)>,
    pub seeds: Vec<Vec<u8>>,
    pub read: fn(&Path) -> Result<()>,
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

/// A LoRA of one module, whose parts are called so.
fn lora(module: &str, [up, down, alpha]: [&str; 3]) -> Vec<u8> {
    let [up, down, alpha] = [up, down, alpha].map(|part| format!("{module}{part}"));
    safetensors(&[
        (&up, &[3, 2, 1, 1], DType::F32),
        (&down, &[2, 4, 1, 1], DType::F16),
        (&alpha, &[], DType::F32),
    ])
}

/// What the authors' code and A1111 write.
fn pickled_checkpoints() -> Vec<Vec<u8>> {
    let dict = |items: Vec<(&str, Pickled)>| {
        Pickled::Dict(items.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let ones =
        |shape: &[usize]| Pickled::Tensor(Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap());
    let key = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let block = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight";
    let factors = || dict(vec![("u", ones(&[3, 1])), ("v", ones(&[1, 2]))]);
    let all = [
        dict(vec![
            ("unet", dict(vec![(key, factors())])),
            ("modifier_token", dict(vec![("<new1>", ones(&[4]))])),
        ]),
        dict(vec![("state_dict", dict(vec![(block, factors()), ("embed", ones(&[2, 4]))]))]),
        dict(vec![("string_to_param", dict(vec![("*", ones(&[2, 4]))])), ("name", Pickled::None)]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.bin");
    let written = all.iter().map(|content| {
        save_pickle(&path, content).unwrap();
        std::fs::read(&path).unwrap()
    });
    written.collect()
}

fn pickled(name: &str) -> Vec<u8> {
    golden(&format!("pickles/{name}.pt"))
}

fn root(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(24, 18, |x, y| image::Rgb([(x * 9) as u8, (y * 9) as u8, 77]));
    let mut out = Cursor::new(vec![]);
    image.write_to(&mut out, format).unwrap();
    out.into_inner()
}

fn safetensors(tensors: &[(&str, &[usize], DType)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let tensors = tensors.iter().map(|(name, shape, dtype)| {
        (name.to_string(), Tensor::ones(*shape, DType::F32, &Device::Cpu).unwrap(), *dtype)
    });
    save_weights(&path, tensors).unwrap();
    std::fs::read(path).unwrap()
}

/// What an SD 2.x is told by, and a stacked tensor.
fn single_file() -> Vec<u8> {
    let attention = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
    let stacked = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias";
    safetensors(&[
        ("model.diffusion_model.input_blocks.0.0.weight", &[1, 4, 3, 3], DType::F16),
        (attention, &[1, 1024], DType::F16),
        ("first_stage_model.quant_conv.bias", &[1], DType::F32),
        (stacked, &[6], DType::F32),
        ("model_ema.decay", &[1], DType::F32),
    ])
}

fn shard(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(vec![]);
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn captioned(path: &Path) -> Result<()> {
    let corpus = corpus(path.to_str().unwrap())?;
    (0..corpus.len()).try_for_each(|i| corpus.picture(i).map(|_| ()))
}

fn tokenized(folder: &Path) -> Result<()> {
    let mut tokenizer = Tokenizer::load(folder)?;
    tokenizer.encode("a <new1> dog, \u{e9}<|endoftext|>")?;
    tokenizer.remarks("a dog <new1> zebra zebra zebra zebra zebra zebra zebra zebra zebra");
    tokenizer.add_token("<new1>").map(|_| ())
}

fn data_set(kind: &str, folder: &Path) -> Result<()> {
    let (kind, path) = (kind.to_owned(), folder.to_owned());
    let on_corrupt = OnCorrupt::Refuse;
    let spec = DatasetSpec { kind, path, prompts: None, outside: false, on_corrupt };
    spec.read(Path::new("")).map(|_| ())
}

/// A CLIP vocabulary in miniature.
fn clip_vocabulary() -> [(&'static str, Vec<u8>); 2] {
    let letters = ('!'..='~').map(String::from);
    let ends = ('!'..='~').map(|c| format!("{c}</w>"));
    let special = ["do", "dog</w>", "<|startoftext|>", "<|endoftext|>"].map(String::from);
    let all: BTreeMap<String, u32> = letters.chain(ends).chain(special).zip(0..).collect();
    let vocabulary = serde_json::to_vec(&all).unwrap();
    [("vocab.json", vocabulary), ("merges.txt", b"#version: 0.2\nd o\ndo g</w>\n".to_vec())]
}

/// The key of a small study, and answers to it: as lines, as JSON and as CSV.
fn preferences() -> (Vec<u8>, [Vec<u8>; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let few = Options { pairs: Some(1), booklets: 1, per_rater: 2, ..asked::options() };
    let key = asked::study(dir.path(), &few).key;
    let given = asked::answers(&key, "r", 0, &asked::Person::HONEST, &mut Rng::new(0, "a"));
    let json = serde_json::to_string(&given).unwrap();
    let lines: String = given.iter().map(|a| serde_json::to_string(a).unwrap() + "\n").collect();
    let mut csv = csv::Writer::from_writer(vec![]);
    given.iter().for_each(|a| csv.serialize(a).unwrap());
    let csv = csv.into_inner().unwrap();
    (key.text().into_bytes(), [lines.into_bytes(), json.into_bytes(), csv])
}

/// All of them.
pub fn readers() -> Vec<Reader> {
    let picture = encoded(ImageFormat::Png);
    let words = tempfile::tempdir().unwrap();
    Tokenizer::word_level(&["a", "dog", ","], 12).unwrap().save(words.path()).unwrap();
    let saved = |name: &str| std::fs::read(words.path().join(name)).unwrap();
    let [vocabulary, merges] = clip_vocabulary();
    let kv =
        "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_custom_diffusion.weight";
    let entry =
        format!(r#"{{"index":0,"caption":"a dog","similarity":0.9,"hash":"{}"}}"#, "0a".repeat(32));
    let manifest = format!(
        r#"{{"corpus":"c","embedder":"e","queries":["dog"],"threshold":0.5,"wanted":1,
            "above_threshold":1,"entries":[{entry}]}}"#
    );
    let mut results = fixture::results(1, 0.0);
    results.cells.truncate(2);
    let baseline = words.path().join("baseline.json");
    Baseline::of(&results).save(&baseline).unwrap();
    let baseline = std::fs::read(baseline).unwrap();
    let map = ndarray::Array2::from_elem((2, 3), 0.25);
    let maps = words.path().join("a.attention.safetensors");
    save_maps(&maps, &[WordMap { word: "dog".into(), map }]).unwrap();
    let maps = std::fs::read(maps).unwrap();
    let index =
        r#"{"metadata":{},"weight_map":{"a":"model-1.safetensors","b":"model-1.safetensors"}}"#;
    let weights = safetensors(&[("a", &[2], DType::F32), ("b", &[1], DType::F16)]);
    let dog = r#"{"class_prompt": "dog", "instance_data_dir": "./in/dog", "prompt_filename": "prompts/dog.txt"}"#;
    // the same pictures as a list's other entry
    let dog2 = dog.replace("in/dog", "in");
    let reader =
        |name, share, file, seeds, read| Reader { name, share, file, beside: vec![], seeds, read };
    let with = |beside: Vec<(&'static str, Vec<u8>)>, reader: Reader| Reader { beside, ..reader };
    let (key, answers) = preferences();
    let text = |texts: &[&str]| texts.iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>();
    vec![
        reader(
            "pictures",
            16,
            "a.jpg",
            vec![
                encoded(ImageFormat::Jpeg),
                golden("progressive.jpg"),
                golden("restarts.jpg"),
                picture.clone(),
                encoded(ImageFormat::WebP),
                [encoded(ImageFormat::Jpeg), b"\0\0\0\x18ftypmp42".repeat(4)].concat(),
            ],
            |folder| read_pictures(folder, OnCorrupt::Refuse).map(|_| ()),
        ),
        reader("own samples", 4, "a.png", vec![picture.clone()], |folder| {
            let path = folder.join("a.png");
            Png::read(&path).and(read_image(&path).map(|_| ()))
        }),
        reader("pickled checkpoints", 4, "x.bin", pickled_checkpoints(), |folder| {
            Delta::load(folder)?.hash().map(|_| ())
        }),
        reader(
            "checkpoints",
            6,
            "x.safetensors",
            vec![
                safetensors(&[(kv, &[3, 2], DType::F32)]),
                safetensors(&[("<new1>", &[4], DType::F16), ("<new2>", &[1, 4], DType::BF16)]),
                safetensors(&[("emb_params", &[1, 4], DType::F32)]),
                lora(
                    "unet.mid_block.attentions.0.proj_in.",
                    ["lora.up.weight", "lora.down.weight", "alpha"],
                ),
                lora(
                    "lora_unet_input_blocks_4_1_proj_in.",
                    ["lora_up.weight", "lora_down.weight", "alpha"],
                ),
                safetensors(&[
                    ("unet.conv_in.weight.u", &[3, 2], DType::F32),
                    ("unet.conv_in.weight.v", &[2, 4, 3, 3], DType::F32),
                ]),
            ],
            |folder| Delta::load(folder)?.hash().map(|_| ()),
        ),
        reader("pickles", 8, "x.pt", ["nested", "whole"].map(pickled).to_vec(), |folder| {
            let weights = Weights::open_file(&folder.join("x.pt"))?;
            for key in weights.keys() {
                weights.tensor(key, &weights.shape(key).unwrap())?;
            }
            Ok(())
        }),
        reader("single files", 2, "x.safetensors", vec![single_file()], |folder| {
            let file = folder.join("x.safetensors").display().to_string();
            let files = BackboneFiles::open(&file.as_str().into())?;
            let stacked = "text_model.encoder.layers.0.self_attn.k_proj.bias";
            files.weights(Part::TextEncoder)?.tensor(stacked, &[2]).map(|_| ())
        }),
        reader("attention maps", 1, "a.safetensors", vec![maps], |folder| {
            load_maps(&folder.join("a.safetensors")).map(|_| ())
        }),
        with(
            vec![("model-1.safetensors", weights)],
            reader("indices", 2, "model.safetensors.index.json", text(&[index]), |folder| {
                Weights::open(folder, "model")?.tensor("a", &[2]).map(|_| ())
            }),
        ),
        reader("tokenizer.json", 3, "tokenizer.json", vec![saved("tokenizer.json")], tokenized),
        with(
            vec![("tokenizer.json", saved("tokenizer.json"))],
            reader(
                "tokenizer_config.json",
                2,
                "tokenizer_config.json",
                vec![saved("tokenizer_config.json")],
                tokenized,
            ),
        ),
        with(
            vec![merges.clone()],
            reader("vocab.json", 1, "vocab.json", vec![vocabulary.1.clone()], tokenized),
        ),
        with(vec![vocabulary], reader("merges.txt", 1, "merges.txt", vec![merges.1], tokenized)),
        reader(
            "experiments",
            8,
            "a.toml",
            vec![root("experiments/smoke.toml"), root("experiments/table3.toml")],
            |folder| {
                let experiment = Experiment::read(&folder.join("a.toml"), &[])?;
                experiment.scale("default").map(|_| ())
            },
        ),
        with(
            vec![("in/a.png", picture.clone())],
            reader(
                "CSV",
                5,
                "a.csv",
                text(&["id,Image,caption\n1,in/a.png,\"a dog, \"\"big\"\"\"\n2,in/a.png,x\n"]),
                |folder| captioned(&folder.join("a.csv")),
            ),
        ),
        with(
            vec![("in/a.png", picture.clone())],
            reader(
                "JSONL",
                5,
                "a.jsonl",
                text(&["{\"file_name\": \"in/a.png\", \"text\": \"a cat\", \"n\": 1}\n\n"]),
                |folder| captioned(&folder.join("a.jsonl")),
            ),
        ),
        reader(
            "shards",
            7,
            "a.tar",
            vec![shard(&[
                ("x/000.png", &picture),
                ("x/000.txt", b"a dog"),
                ("x/001.json", b"{\"caption\": \"a cat\"}"),
                ("x/001.png", &picture),
            ])],
            |folder| captioned(&folder.join("a.tar")),
        ),
        with(
            vec![("a.png", picture.clone())],
            reader("captions", 1, "a.json", text(&["{\"caption\": \"a cat\"}"]), captioned),
        ),
        reader(
            "prompts.json",
            3,
            "prompts.json",
            text(&["{\"0\": \"photo of a <new1> dog\", \"1.png\": \"\\u00e9\"}"]),
            |folder| read_prompts_json(&folder.join("prompts.json")).map(|_| ()),
        ),
        reader(
            "prompts",
            3,
            "a.txt",
            text(&["# scenes\nphoto of a {} in the snow\n<new1> dog, {{}} at {0}\n"]),
            |folder| {
                for prompt in read_prompts(&folder.join("a.txt"), 1)? {
                    prompt.fill(&["<new1> dog"]);
                }
                Ok(())
            },
        ),
        with(
            vec![
                ("in/dog/a.png", picture.clone()),
                ("prompts/dog.txt", b"a {} at night\n".to_vec()),
            ],
            reader("dataset.json", 3, "dataset.json", text(&[&format!("[{dog},\n{dog2}]")]), |f| {
                data_set("customconcept101", f)
            }),
        ),
        with(
            vec![
                ("in/dog/a.png", picture.clone()),
                ("prompts/dog.txt", b"a {} at night\n".to_vec()),
                ("prompts/two.txt", b"a {0} on a {1}\n".to_vec()),
                ("dataset.json", format!("[{dog}]").into_bytes()),
            ],
            reader(
                "dataset_multiconcept.json",
                2,
                "dataset_multiconcept.json",
                text(&[&format!(
                    "[[{dog}, {dog2},\n{{\"prompt_filename_compose\": \"prompts/two.txt\"}}]]"
                )]),
                |folder| data_set("customconcept101", folder),
            ),
        ),
        with(
            vec![("vase/a.png", picture.clone()), ("dog2/a.png", picture.clone())],
            reader(
                "prompts_and_classes.txt",
                2,
                "prompts_and_classes.txt",
                text(&[
                    "subject_name,class\nvase,vase\ndog2,dog\n\nObject Prompts\n[\n'a {0} {1}'.format(u, c),\n]\n\
                        Live Subject Prompts\n[\n\"a red {0} {1}\".format(u, c)\n]\n",
                ]),
                |folder| data_set("dreambench", folder),
            ),
        ),
        with(
            vec![("images/animal/00.png", picture.clone())],
            reader(
                "subjects and captions",
                1,
                "captions/animal/00.txt",
                text(&["kitten\nA kitten {asleep}\n\nan empty room\n"]),
                |folder| data_set("dreambench++", folder),
            ),
        ),
        with(
            vec![(Key::FILE, key.clone())],
            reader("answers to a study", 2, "answers.jsonl", answers.into(), |folder| {
                let key = Key::read(folder)?;
                let file = folder.join("answers.jsonl");
                let read = Collected::new(&key).read(&file);
                // a server reads only what servers write
                let _ = Ledger::open(&file, &key);
                read
            }),
        ),
        reader("a study's key", 1, Key::FILE, vec![key], |folder| Key::read(folder).map(|_| ())),
        reader("manifests", 1, "a.json", text(&[&manifest]), |folder| {
            Manifest::load(&folder.join("a.json")).map(|_| ())
        }),
        reader("baselines", 2, "a.json", vec![baseline], |folder| {
            Baseline::load(&folder.join("a.json")).map(|_| ())
        }),
        reader(
            "unet/config.json",
            1,
            UNetConfig::FILE,
            vec![golden("sd1/unet/config.json")],
            |f| UNetConfig::read(f).map(|_| ()),
        ),
        reader("vae/config.json", 1, VaeConfig::FILE, vec![golden("sd1/vae/config.json")], |f| {
            VaeConfig::read(f).map(|_| ())
        }),
        reader(
            "CLIP's config.json",
            1,
            "config.json",
            vec![golden("clip_towers/patch32/config.json")],
            |folder| {
                let config = ClipConfig::read(folder)?;
                Preprocessor::read(folder, config.vision_config.image_size).map(|_| ())
            },
        ),
        reader(
            "scheduler_config.json",
            1,
            SchedulerConfig::FILE,
            vec![golden("sd1/scheduler/scheduler_config.json")],
            |folder| {
                use cdbench::diffusion::scheduler::SchedulerKind;
                let config = SchedulerConfig::read(folder)?;
                SchedulerKind::DpmSolver.scheduler(&config, 20, 0.0).map(|_| ())
            },
        ),
    ]
}
