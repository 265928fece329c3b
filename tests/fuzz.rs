//! Every reader of foreign bytes, given bytes that are nearly right: whatever comes, it ends in a value or
//! in an error that calls it bad input, soon, and without memory for what is not there.
//!
//! `CDBENCH_FUZZ=1000000 cargo test --release --test fuzz -- --nocapture` is the long form, and says how
//! many inputs each reader had. Of an input that a reader fails on the file is kept.

#[allow(dead_code)]
mod fixture;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use cdbench::clip::{ClipConfig, Preprocessor};
use cdbench::data::{Manifest, OnCorrupt, corpus, read_pictures, read_prompts, read_prompts_json};
use cdbench::diffusion::config::{Config, SchedulerConfig, UNetConfig, VaeConfig};
use cdbench::diffusion::png::Png;
use cdbench::diffusion::tokenizer::Tokenizer;
use cdbench::diffusion::weights::{Weights, save_weights};
use cdbench::engine::read_image;
use cdbench::methods::Delta;
use cdbench::report::Baseline;
use cdbench::rng::Rng;
use cdbench::spec::Experiment;
use cdbench::{Result, process};
use image::{ImageFormat, RgbImage};

/// Inputs of all readers where nobody asks for more.
const FEW: usize = 6_000;
/// No input may take longer.
const LONGEST: Duration = Duration::from_secs(60);
/// Nor may all of them together take more memory.
const MOST_BYTES: u64 = 1 << 30;

struct Reader {
    name: &'static str,
    /// Parts in a hundred of all inputs.
    share: usize,
    /// The file in the reader's folder that changes.
    file: &'static str,
    /// Others that are there as they should be.
    beside: Vec<(&'static str, Vec<u8>)>,
    seeds: Vec<Vec<u8>>,
    read: fn(&Path) -> Result<()>,
}

fn all(folder: &Path, files: &[(&'static str, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
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

/// A CLIP vocabulary in miniature.
fn clip_vocabulary() -> [(&'static str, Vec<u8>); 2] {
    let letters = ('!'..='~').map(String::from);
    let ends = ('!'..='~').map(|c| format!("{c}</w>"));
    let special = ["do", "dog</w>", "<|startoftext|>", "<|endoftext|>"].map(String::from);
    let all: BTreeMap<String, u32> = letters.chain(ends).chain(special).zip(0..).collect();
    let vocabulary = serde_json::to_vec(&all).unwrap();
    [("vocab.json", vocabulary), ("merges.txt", b"#version: 0.2\nd o\ndo g</w>\n".to_vec())]
}

fn readers() -> Vec<Reader> {
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
    let index =
        r#"{"metadata":{},"weight_map":{"a":"model-1.safetensors","b":"model-1.safetensors"}}"#;
    let weights = safetensors(&[("a", &[2], DType::F32), ("b", &[1], DType::F16)]);
    let reader =
        |name, share, file, seeds, read| Reader { name, share, file, beside: vec![], seeds, read };
    let with = |beside: Vec<(&'static str, Vec<u8>)>, reader: Reader| Reader { beside, ..reader };
    let text = |texts: &[&str]| texts.iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>();
    vec![
        reader(
            "pictures",
            30,
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
        reader(
            "checkpoints",
            18,
            "x.safetensors",
            vec![
                safetensors(&[(kv, &[3, 2], DType::F32)]),
                safetensors(&[("<new1>", &[4], DType::F16), ("<new2>", &[1, 4], DType::BF16)]),
                safetensors(&[("emb_params", &[1, 4], DType::F32)]),
            ],
            |folder| Delta::load(folder)?.hash().map(|_| ()),
        ),
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
            vec![("a.png", picture)],
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

/// Numbers at which sizes, counts and signs go wrong.
const NUMBERS: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX];
/// The same as texts have them, and what else stands in the place of numbers and strings.
const WORDS: [&str; 14] = [
    "0",
    "-1",
    "18446744073709551616",
    "1e999",
    "NaN",
    "null",
    "\"\"",
    "[]",
    "{}",
    "<new1>",
    "\0",
    "\u{feff}",
    "..",
    "\u{1f436}",
];

/// One of `seeds` with a few changes.
fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.below(seeds.len())].clone();
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        let end = (at + 1 + rng.below(16)).min(bytes.len());
        match rng.below(10) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at.min(end)..end)),
            2 => {
                let part = bytes[at.min(end)..end].to_vec();
                let times = 1 + rng.below(40);
                bytes.splice(at..at, part.repeat(times));
            }
            3 => {
                let other = &seeds[rng.below(seeds.len())];
                let from = rng.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            4 => {
                let random: Vec<u8> = (0..=rng.below(8)).map(|_| rng.below(256) as u8).collect();
                bytes.splice(at..at, random);
            }
            5 | 6 => {
                let number = NUMBERS[rng.below(NUMBERS.len())];
                let width = [1, 2, 4, 8][rng.below(4)];
                let number = match rng.below(2) {
                    0 => number.to_le_bytes()[..width].to_vec(),
                    _ => number.to_be_bytes()[8 - width..].to_vec(),
                };
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number);
            }
            7 => {
                let word = WORDS[rng.below(WORDS.len())].bytes();
                // in the place of a number, if one is near
                let digit = |b: &u8| b.is_ascii_digit();
                let start = bytes[at..].iter().position(digit).map_or(at, |i| at + i);
                let length = bytes[start..].iter().take_while(|b| digit(b)).count();
                bytes.splice(start..start + length, word);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    bytes.truncate(1 << 20);
    bytes
}

/// What came of a reader's inputs.
#[derive(Default)]
struct Outcome {
    values: usize,
    errors: usize,
    slowest: Duration,
    failures: Vec<String>,
}

/// Ends the process where an input takes too long, and says which.
struct Watch(Mutex<Option<(Instant, String)>>);

impl Watch {
    fn start() -> &'static Watch {
        let watch: &'static Watch = Box::leak(Box::new(Watch(Mutex::new(None))));
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                if let Some((start, what)) = &*watch.0.lock().unwrap()
                    && start.elapsed() > LONGEST
                {
                    eprintln!("{what}: no end after {LONGEST:?}");
                    std::process::abort();
                }
            }
        });
        watch
    }
}

fn run(reader: &Reader, count: usize, place: &Path, watch: &Watch) -> Outcome {
    let folder = place.join("input");
    all(&folder, &reader.beside);
    let path = folder.join(reader.file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for seed in &reader.seeds {
        std::fs::write(&path, seed).unwrap();
        let valid = (reader.read)(&folder);
        assert!(valid.is_ok(), "{}: a valid file: {}", reader.name, valid.unwrap_err());
    }
    let mut outcome = Outcome::default();
    let mut rng = Rng::new(count as u64, reader.name);
    for i in 0..count {
        let bytes = mutated(&reader.seeds, &mut rng);
        std::fs::write(&path, &bytes).unwrap();
        let start = Instant::now();
        *watch.0.lock().unwrap() = Some((start, path.display().to_string()));
        let found = catch_unwind(AssertUnwindSafe(|| (reader.read)(&folder)));
        *watch.0.lock().unwrap() = None;
        outcome.slowest = outcome.slowest.max(start.elapsed());
        let failure = match found {
            Ok(Ok(())) => {
                outcome.values += 1;
                continue;
            }
            // what is not there, because another file names it, is the system's to say
            Ok(Err(e)) if [3, 4].contains(&e.exit_code()) => {
                outcome.errors += 1;
                continue;
            }
            Ok(Err(e)) => format!("input {i}: {e}"),
            Err(_) => format!("input {i}: a panic"),
        };
        let name: String = reader.name.chars().filter(char::is_ascii_alphanumeric).collect();
        let kept = std::env::temp_dir().join(format!("cdbench-fuzz-{name}-{i}"));
        std::fs::write(&kept, &bytes).unwrap();
        outcome.failures.push(format!("{} {failure} ({})", reader.name, kept.display()));
    }
    outcome
}

#[test]
fn whatever_comes_is_a_value_or_an_error() {
    let asked = std::env::var("CDBENCH_FUZZ").ok();
    let total: usize = asked.map_or(FEW, |n| n.parse().expect("CDBENCH_FUZZ is a number"));
    let readers = readers();
    assert_eq!(readers.iter().map(|r| r.share).sum::<usize>(), 100);
    let memory = Path::new("/dev/shm");
    let place = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let watch = Watch::start();
    let mut failures = vec![];
    for (i, reader) in readers.iter().enumerate() {
        let count = total * reader.share / 100;
        let outcome = run(reader, count, &place.path().join(i.to_string()), watch);
        println!(
            "{}: {count} inputs, {} values, {} errors, the slowest {:?}",
            reader.name, outcome.values, outcome.errors, outcome.slowest
        );
        failures.extend(outcome.failures);
    }
    let peak = process::peak_memory().unwrap_or(0);
    println!("{total} inputs, at most {} MiB", peak >> 20);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(peak < MOST_BYTES, "{peak} bytes");
}
