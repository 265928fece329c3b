//! The methods on real small models: what trains and what does not, that a checkpoint is the same
//! wherever it is loaded and however often its training was interrupted, and the closed-form merge.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor};
use cdbench::diffusion::scheduler::SchedulerKind;
use cdbench::diffusion::{Backbone, Request, Sampling};
use cdbench::methods::{
    ClassPicture, Delta, Instance, MergeSettings, Modifier, Part, Problem, Profile, Recipe,
    Regularization, Settings, Training, find, merge, train,
};
use cdbench::rng::Rng;
use cdbench::train::Decay;
use cdbench::{Error, Result};
use common::{Golden, assert_close, floats, path};
use image::{Rgb, RgbImage};
use nalgebra::DMatrix;

fn backbone() -> Backbone {
    Backbone::load(&path("sd1"), &Device::Cpu, DType::F32).unwrap()
}

fn noise(seed: u64) -> RgbImage {
    let mut rng = Rng::new(seed, "picture");
    RgbImage::from_fn(40, 32, |x, _| Rgb([x as u8 * 6, rng.below(256) as u8, 30]))
}

fn instance(category: &str) -> Instance {
    let seed = category.len() as u64;
    let class = |i: u64| {
        let caption = format!("a {category} in snow");
        ClassPicture { image: noise(100 + i), caption }
    };
    Instance {
        name: format!("my {category}"),
        category: category.into(),
        pictures: (0..2).map(|i| noise(seed + i)).collect(),
        class: (0..3).map(class).collect(),
    }
}

fn settings(method: &str) -> Settings {
    let settings = find(method).unwrap().defaults(Profile::Mini, 1);
    Settings { steps: 3, batch: 4, lr: 2e-3, token_lr: Some(1e-2), class_images: 3, ..settings }
}

fn training<'a>(
    instances: &'a [Instance],
    settings: &'a Settings,
    tokens: &'a [usize],
    dir: &'a Path,
) -> Training<'a> {
    Training { from: None, instances, settings, tokens, seed: 5, dir }
}

fn go(backbone: &mut Backbone, training: &Training) -> Result<Delta> {
    train(backbone, training, &AtomicBool::new(false), &mut |_| ())
}

/// One training of one concept, in a folder of its own.
fn learn(backbone: &mut Backbone, category: &str, settings: &Settings) -> Delta {
    let dir = tempfile::tempdir().unwrap();
    go(backbone, &training(&[instance(category)], settings, &[1], dir.path())).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    floats(tensor).into_iter().map(f32::to_bits).collect()
}

fn snapshot(backbone: &Backbone) -> Vec<(String, Vec<u32>)> {
    let params = backbone.params();
    params.map(|p| (p.name().to_owned(), bits(&p.to_file().unwrap()))).collect()
}

fn sample(backbone: &Backbone, prompt: &str) -> Vec<u8> {
    let sampling = Sampling {
        steps: 2,
        guidance: 4.0,
        scheduler: SchedulerKind::Ddim,
        eta: 0.0,
        height: 32,
        width: 32,
        negative_prompt: String::new(),
    };
    let request = Request::new(prompt, 1);
    let samples = backbone.sample(&[request], &sampling, &|_| Ok(())).unwrap();
    samples[0].image.as_raw().clone()
}

#[test]
fn exactly_what_a_method_trains_changes() {
    type Belongs = fn(&str) -> bool;
    let cases: [(&str, Belongs, bool); 4] = [
        ("custom-diffusion", |n| n.contains("attn2.to_k.") || n.contains("attn2.to_v."), true),
        ("fine-tune-all", |_| true, true),
        ("dreambooth", |_| true, false),
        ("textual-inversion", |_| false, true),
    ];
    let mut backbone = backbone();
    let before = snapshot(&backbone);
    for (method, belongs, token_moves) in cases {
        let delta = learn(&mut backbone, "dog", &settings(method));
        let unet: Vec<_> = backbone.unet.params().to_vec();
        let wanted: Vec<String> = unet
            .iter()
            .filter(|p| belongs(p.name()))
            .map(|p| format!("unet.{}", p.name()))
            .collect();
        let mut found: Vec<&String> = delta.tensors().keys().collect();
        found.sort();
        let mut sorted: Vec<&String> = wanted.iter().collect();
        sorted.sort();
        assert_eq!(found, sorted, "{method}");
        for param in &unet {
            if let Some(tensor) = delta.tensors().get(&format!("unet.{}", param.name())) {
                assert_ne!(bits(tensor), bits(&param.to_file().unwrap()), "{}", param.name());
            }
        }
        // the same training with one step that moves nothing shows where the token started
        let still = Settings { steps: 1, lr: 0.0, token_lr: None, ..settings(method) };
        let start = learn(&mut backbone, "dog", &still);
        let row = |delta: &Delta| bits(&delta.tokens()[0].1);
        assert_eq!(delta.tokens()[0].0, "<new1>");
        assert_eq!(row(&delta) != row(&start), token_moves, "{method}");
        assert!(snapshot(&backbone) == before, "{method} left the backbone changed");
        assert!(backbone.tokenizer.token_id("<new1>").is_none());
    }
}

#[test]
fn modifier_tokens_start_as_they_should() {
    let mut backbone = backbone();
    let start = |backbone: &mut Backbone, modifier_token, seed| {
        let settings = Settings {
            modifier_token,
            lr: 0.0,
            token_lr: None,
            steps: 1,
            ..settings("custom-diffusion")
        };
        let (dir, instances) = (tempfile::tempdir().unwrap(), [instance("dog")]);
        let training = Training { seed, ..training(&instances, &settings, &[1], dir.path()) };
        let delta = go(backbone, &training).unwrap();
        delta.tokens().first().map(|(_, row)| floats(row))
    };
    let table = backbone.text_encoder.vocabulary().value();
    let row_of =
        |row: &[f32]| (0..table.dims()[0]).position(|i| floats(&table.get(i).unwrap()) == row);
    let rare = start(&mut backbone, Modifier::Rare, 1).unwrap();
    assert!(row_of(&rare).is_some());
    assert_eq!(start(&mut backbone, Modifier::Frozen, 1).unwrap(), rare);
    assert_eq!(start(&mut backbone, Modifier::None, 1), None);
    let dog = *backbone.tokenizer.encode_words("dog").unwrap().last().unwrap() as usize;
    let category = start(&mut backbone, Modifier::Category, 1).unwrap();
    assert_eq!(row_of(&category), Some(dog));
    let normal = start(&mut backbone, Modifier::Normal, 1).unwrap();
    assert_eq!(row_of(&normal), None);
    assert_ne!(start(&mut backbone, Modifier::Normal, 2).unwrap(), normal);
}

#[test]
fn rates_that_fall_move_less() {
    let mut backbone = backbone();
    let mut end = |decay, steps, lr| {
        let settings =
            Settings { decay, steps, lr, token_lr: Some(lr), ..settings("textual-inversion") };
        floats(&learn(&mut backbone, "dog", &settings).tokens()[0].1)
    };
    let start = end(Decay::Constant, 1, 0.0);
    let moved =
        |row: Vec<f32>| row.iter().zip(&start).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // AdamW moves a number by at most about the rate at each step: 1 + 1 + 1 + 1, 1 + 3/4 + 1/2 + 1/4
    let constant = moved(end(Decay::Constant, 4, 1e-3)) / 1e-3;
    let falling = moved(end(Decay::Linear, 4, 1e-3)) / 1e-3;
    assert!((3.0..4.1).contains(&constant), "{constant}");
    assert!((1.8..2.6).contains(&falling), "{falling}");
}

#[test]
fn a_checkpoint_samples_the_same_after_reload() {
    let mut backbone = backbone();
    for (method, file) in [
        ("custom-diffusion", Some("pytorch_custom_diffusion_weights.safetensors")),
        ("fine-tune-all", Some("unet.safetensors")),
        ("textual-inversion", None),
    ] {
        let delta = learn(&mut backbone, "dog", &settings(method));
        let dir = tempfile::tempdir().unwrap();
        let bytes = delta.save(dir.path()).unwrap();
        assert!(bytes >= delta.bytes() && bytes < delta.bytes() + 100_000, "{bytes}");
        assert!(file.is_none_or(|name| dir.path().join(name).is_file()), "{method}");
        assert!(dir.path().join("<new1>.safetensors").is_file());
        let loaded = Delta::load(dir.path()).unwrap();
        assert_eq!(loaded.hash().unwrap(), delta.hash().unwrap());

        let plain = sample(&backbone, "a dog");
        let undo = delta.apply(&mut backbone).unwrap();
        let first = sample(&backbone, "a <new1> dog");
        assert!(loaded.apply(&mut backbone).is_err(), "changed already");
        undo.restore(&mut backbone).unwrap();
        assert_eq!(sample(&backbone, "a dog"), plain);
        let mut other = self::backbone();
        let undo = loaded.apply(&mut other).unwrap();
        assert_eq!(sample(&other, "a <new1> dog"), first, "{method}");
        assert_ne!(first, plain);
        undo.restore(&mut other).unwrap();
    }
}

#[test]
fn a_token_of_several_vectors_learns_them_all() {
    let mut backbone = backbone();
    let before = snapshot(&backbone);
    let inversion = Settings { vectors: 3, ..settings("textual-inversion") };
    let delta = learn(&mut backbone, "dog", &inversion);
    assert!(snapshot(&backbone) == before);
    let (name, rows) = &delta.tokens()[0];
    assert_eq!((name.as_str(), rows.dims()), ("<new1>", &[3, 48][..]));
    let row = |i: usize| bits(&rows.get(i).unwrap());
    assert!(row(0) != row(1) && row(1) != row(2), "each stands at a place of its own");

    let dir = tempfile::tempdir().unwrap();
    delta.save(dir.path()).unwrap();
    let loaded = Delta::load(dir.path()).unwrap();
    let undo = loaded.apply(&mut backbone).unwrap();
    let words = backbone.tokenizer.encode_words("a <new1> toy").unwrap();
    let first = backbone.tokenizer.token_id("<new1>").unwrap();
    assert_eq!(words[1..4], [first, first + 1, first + 2]);
    let image = sample(&backbone, "a <new1> toy");
    undo.restore(&mut backbone).unwrap();
    // all three are seen: the first alone is another image
    let one = vec![(name.clone(), rows.narrow(0, 0, 1).unwrap())];
    let undo = Delta::new(Default::default(), one).apply(&mut backbone).unwrap();
    assert_ne!(sample(&backbone, "a <new1> toy"), image);
    undo.restore(&mut backbone).unwrap();
}

#[test]
fn an_interrupted_training_gives_the_same_bits() {
    interrupted(backbone());
    // with the scale of the loss
    interrupted(Backbone::load(&path("sd1"), &Device::Cpu, DType::F16).unwrap());
}

fn interrupted(mut backbone: Backbone) {
    let settings = Settings { steps: 6, ..settings("custom-diffusion") };
    let instances = [instance("dog"), instance("kitten")];
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let whole =
        go(&mut backbone, &training(&instances, &settings, &[1, 2], dirs[0].path())).unwrap();
    let parts = training(&instances, &settings, &[1, 2], dirs[1].path());
    for stop_at in [1, 4] {
        let stop = AtomicBool::new(false);
        let outcome = train(&mut backbone, &parts, &stop, &mut |p| {
            stop.store(p.step >= stop_at, Ordering::Relaxed);
        });
        assert!(matches!(outcome, Err(Error::Interrupted)));
        assert_eq!(backbone.text_encoder.added_count(), 0);
    }
    let resumed = go(&mut backbone, &parts).unwrap();
    assert_eq!(resumed.hash().unwrap(), whole.hash().unwrap());
    assert_eq!(resumed.tokens().len(), 2);
    // the folder is that of this training alone
    let others = [instance("dog"), instance("cat")];
    let refused = go(&mut backbone, &training(&others, &settings, &[1, 2], dirs[1].path()));
    assert!(refused.unwrap_err().to_string().contains("another run"));
}

#[test]
fn sequential_training_keeps_the_first_token() {
    let mut backbone = backbone();
    let settings = settings("sequential");
    let first = learn(&mut backbone, "dog", &settings);
    let (dir, instances) = (tempfile::tempdir().unwrap(), [instance("cat")]);
    let second =
        Training { from: Some(&first), ..training(&instances, &settings, &[2], dir.path()) };
    let both = go(&mut backbone, &second).unwrap();
    let names: Vec<&str> = both.tokens().iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["<new1>", "<new2>"]);
    assert_eq!(bits(&both.tokens()[0].1), bits(&first.tokens()[0].1));
    assert_eq!(both.tensors().len(), first.tensors().len());
    for (name, tensor) in first.tensors() {
        assert_ne!(bits(tensor), bits(&both.tensors()[name]), "{name}");
    }
    // and not from the backbone: one still step from the first leaves the first's weights
    let still = Settings { steps: 1, lr: 0.0, token_lr: None, ..settings.clone() };
    let dir = tempfile::tempdir().unwrap();
    let same = Training { settings: &still, dir: dir.path(), ..second };
    let same = go(&mut backbone, &same).unwrap();
    assert!(first.tensors().iter().all(|(name, t)| bits(t) == bits(&same.tensors()[name])));
}

#[test]
fn impossible_trainings_are_refused() {
    let mut backbone = backbone();
    let dir = tempfile::tempdir().unwrap();
    let plain = settings("custom-diffusion");
    let inversion = settings("textual-inversion");
    let mut refused = |instances: &[Instance], settings: &Settings, tokens: &[usize]| {
        let error = go(&mut backbone, &training(instances, settings, tokens, dir.path()));
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
        assert_eq!(backbone.text_encoder.added_count(), 0);
        error.to_string()
    };
    let two = [instance("dog"), instance("cat")];
    assert!(refused(&[], &plain, &[]).contains("0 concepts"));
    assert!(refused(&two, &plain, &[1, 1]).contains("<new1>"));
    let frozen = Settings { modifier_token: Modifier::Frozen, ..inversion };
    assert!(refused(&two, &frozen, &[1, 2]).contains("leaves nothing"));
    let empty = Instance { pictures: vec![], ..instance("dog") };
    assert!(refused(&[empty], &plain, &[1]).contains("my dog"));
    let typo = Settings { train: "unt".parse().unwrap(), ..plain };
    assert!(refused(&two, &typo, &[1, 2]).contains("unt"));
}

#[test]
fn damaged_and_foreign_checkpoints_are_refused() {
    let mut backbone = backbone();
    let delta = learn(&mut backbone, "dog", &settings("custom-diffusion"));
    let before = snapshot(&backbone);
    let (name, tensor) = delta.tensors().iter().next().unwrap();
    let with = |name: &str, tensor: Tensor| {
        Delta::new([(name.to_owned(), tensor)].into(), delta.tokens().to_vec())
    };
    let narrow = with(name, tensor.narrow(1, 0, 3).unwrap().contiguous().unwrap());
    let unknown = with("unet.nowhere.weight", tensor.clone());
    for (delta, wanted) in [(narrow, name.as_str()), (unknown, "unet.nowhere")] {
        let error = delta.apply(&mut backbone).err().unwrap();
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(snapshot(&backbone) == before && backbone.text_encoder.added_count() == 0);
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(Delta::load(dir.path()).is_err(), "an empty folder");
    std::fs::write(dir.path().join("delta.bin"), b"PK").unwrap();
    let error = Delta::load(dir.path()).unwrap_err();
    assert!(error.to_string().contains("delta.bin"), "{error}");
    std::fs::remove_file(dir.path().join("delta.bin")).unwrap();
    with(name, (tensor * f64::NAN).unwrap()).save(dir.path()).unwrap();
    assert!(Delta::load(dir.path()).unwrap_err().to_string().contains("finite"));
}

fn captions() -> Vec<String> {
    let of = ["dog", "cat", "red cat", "table", "wooden pot", "flower", "blue bird", "tree"];
    let at = ["in the snow", "on a beach", "in a garden", "at night", "next to a chair"];
    let all = of.iter().flat_map(|of| at.iter().map(move |at| format!("photo of a {of} {at}")));
    all.chain(of.iter().map(|of| format!("a painting of two {of}s, very old"))).collect()
}

fn part<'a>(delta: &'a Delta, category: &'a str) -> Part<'a> {
    Part { delta, modifier: Modifier::Rare, category }
}

/// What K and V do to the words of a prompt [tokens, outputs], in f64 enough for 1e-4.
fn outputs(backbone: &Backbone, name: &str, prompt: &str) -> Tensor {
    let name = name.strip_prefix("unet.").unwrap();
    let weight = backbone.unet.params().iter().find(|p| p.name() == name).unwrap().to_file();
    let words = backbone.encode_text(&[prompt]).unwrap().value().get(0).unwrap();
    let end = backbone.tokenizer.encode_words(prompt).unwrap().len() + 1;
    let first = backbone.tokenizer.encode_words("photo of a").unwrap().len() + 1;
    let words = words.narrow(0, first, end - first + 1).unwrap();
    words.contiguous().unwrap().matmul(&weight.unwrap().t().unwrap()).unwrap()
}

#[test]
fn a_merge_does_to_each_concepts_words_what_its_checkpoint_does() {
    let mut backbone = backbone();
    let before = snapshot(&backbone);
    let settings = settings("custom-diffusion");
    let (dog, cat) =
        (learn(&mut backbone, "dog", &settings), learn(&mut backbone, "cat", &settings));
    let parts = [part(&dog, "dog"), part(&cat, "cat")];
    let options = MergeSettings::default();
    let (both, report) = merge(&mut backbone, &parts, &captions(), &options).unwrap();
    assert!(snapshot(&backbone) == before);
    let report = report.unwrap();
    println!("{report:?}");
    assert!(report.residual < 1e-4, "{report:?}");
    assert_eq!(report.layers, dog.tensors().len());
    assert!(report.drift > 0.0 && report.drift < 0.5, "{report:?}");

    let names: Vec<&str> = both.tokens().iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["<new1>", "<new2>"]);
    assert_eq!(bits(&both.tokens()[1].1), bits(&cat.tokens()[0].1));
    for (delta, own, merged) in [
        (&dog, "photo of a <new1> dog", "photo of a <new1> dog"),
        (&cat, "photo of a <new1> cat", "photo of a <new2> cat"),
    ] {
        let undo = delta.apply(&mut backbone).unwrap();
        let wanted: Vec<Tensor> =
            dog.tensors().keys().map(|name| outputs(&backbone, name, own)).collect();
        undo.restore(&mut backbone).unwrap();
        let undo = both.apply(&mut backbone).unwrap();
        for (name, wanted) in dog.tensors().keys().zip(&wanted) {
            assert_close(name, &outputs(&backbone, name, merged), wanted, 1e-4);
        }
        undo.restore(&mut backbone).unwrap();
    }
}

#[test]
fn merges_of_one_of_the_same_category_and_of_tokens_alone() {
    let mut backbone = backbone();
    let settings = settings("custom-diffusion");
    let dog = learn(&mut backbone, "dog", &settings);
    let options = MergeSettings::default();
    let (one, report) = merge(&mut backbone, &[part(&dog, "dog")], &captions(), &options).unwrap();
    assert!(report.unwrap().residual < 1e-4);
    let undo = dog.apply(&mut backbone).unwrap();
    let wanted: Vec<Tensor> = dog
        .tensors()
        .keys()
        .map(|name| outputs(&backbone, name, "photo of a <new1> dog"))
        .collect();
    undo.restore(&mut backbone).unwrap();
    let undo = one.apply(&mut backbone).unwrap();
    for (name, wanted) in dog.tensors().keys().zip(&wanted) {
        assert_close(name, &outputs(&backbone, name, "photo of a <new1> dog"), wanted, 1e-4);
    }
    undo.restore(&mut backbone).unwrap();

    // the same checkpoint twice: every word is there twice, and says the same
    let twice = [part(&dog, "dog"), part(&dog, "dog")];
    let (_, report) = merge(&mut backbone, &twice, &captions(), &options).unwrap();
    let report = report.unwrap();
    assert_eq!((report.targets, report.residual < 1e-4), (2 * report.rank, true), "{report:?}");
    assert!(report.warnings()[0].contains("depend"));

    let inversion =
        Settings { regularization: Regularization::None, ..self::settings("textual-inversion") };
    let token = learn(&mut backbone, "dog", &inversion);
    let tokens = Part { delta: &token, modifier: Modifier::Category, category: "dog" };
    let (side_by_side, report) = merge(&mut backbone, &[tokens, tokens], &[], &options).unwrap();
    assert!(report.is_none() && side_by_side.tensors().is_empty());
    assert_eq!(side_by_side.tokens()[1].0, "<new2>");

    let whole = learn(&mut backbone, "dog", &self::settings("fine-tune-all"));
    let refused = merge(&mut backbone, &[part(&whole, "dog")], &captions(), &options);
    assert!(refused.unwrap_err().hint().unwrap().contains("kv,tokens"));
}

#[test]
fn the_closed_form_is_numpys_constrained_least_squares() {
    let golden = Golden::load("merge.safetensors");
    let matrix = |key: &str| {
        let tensor = golden.get(key).to_dtype(DType::F64).unwrap();
        let rows: Vec<Vec<f64>> = tensor.to_vec2().unwrap();
        DMatrix::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j])
    };
    for case in ["plain", "repeated", "few"] {
        let get = |key: &str| matrix(&format!("{case}.{key}"));
        let problem = Problem::new(&get("regularization"), get("targets"), 0.0).unwrap();
        for layer in ["k", "v"] {
            let of = |key: &str| get(&format!("{layer}.{key}"));
            let solved = problem.solve(&of("pretrained"), &of("values"));
            let wanted = of("merged");
            let error = (&solved.weight - &wanted).norm() / wanted.norm();
            println!("{case} {layer}: {error:.1e}, residual {:.1e}", solved.residual);
            assert!(error < 1e-4, "{case} {layer}: {error}");
            assert!(solved.residual < 1e-4, "{case} {layer}: {}", solved.residual);
        }
    }
}

#[test]
fn every_method_has_a_recipe_that_runs() {
    let mut backbone = backbone();
    for method in cdbench::methods::registry() {
        let concepts = vec!["dog".to_owned(), "cat".to_owned()];
        let settings = settings(method.name());
        let settings = Settings { steps: 1, ..settings };
        let recipe = method.recipe(&concepts, &settings, 1);
        let delta = follow(&mut backbone, &recipe);
        let phrases = recipe.phrases(&concepts);
        let undo = delta.apply(&mut backbone).unwrap();
        for phrase in &phrases {
            let words = backbone.tokenizer.encode_words(phrase).unwrap();
            let new = words.iter().filter(|id| **id >= 912).count();
            assert_eq!(new, usize::from(phrase.contains("<new")), "{phrase}");
        }
        undo.restore(&mut backbone).unwrap();
    }
}

fn follow(backbone: &mut Backbone, recipe: &Recipe) -> Delta {
    match recipe {
        Recipe::Pretrained => Delta::default(),
        Recipe::State { .. }
        | Recipe::Compressed { .. }
        | Recipe::External { .. }
        | Recipe::File { .. } => {
            panic!("no method's own")
        }
        Recipe::Train { from, concepts, settings, seed, tokens } => {
            let from = follow(backbone, from);
            let instances: Vec<Instance> = concepts.iter().map(|c| instance(c)).collect();
            let dir = tempfile::tempdir().unwrap();
            let training = Training {
                from: Some(&from),
                seed: *seed,
                ..training(&instances, settings, tokens, dir.path())
            };
            go(backbone, &training).unwrap()
        }
        Recipe::Merge { parts, settings } => {
            let deltas: Vec<Delta> = parts.iter().map(|part| follow(backbone, part)).collect();
            let parts: Vec<Part> = parts
                .iter()
                .zip(&deltas)
                .map(|(recipe, delta)| Part {
                    delta,
                    modifier: recipe.modifiers()[0].0,
                    category: recipe.concepts()[0],
                })
                .collect();
            merge(backbone, &parts, &captions(), settings).unwrap().0
        }
    }
}
