//! Where words are attended to while images are sampled.

mod common;

use candle_core::{DType, Device};
use cdbench::diffusion::scheduler::SchedulerKind;
use cdbench::diffusion::{Backbone, BackboneFiles, Request, Sample, Sampling};
use cdbench::nn::reference;
use common::{floats, path};
use ndarray::Array2;

fn sampling(steps: usize, guidance: f64, side: usize) -> Sampling {
    Sampling {
        steps,
        guidance,
        scheduler: SchedulerKind::Ddpm,
        eta: 0.0,
        height: side,
        width: side,
        negative_prompt: "a wooden pot".into(),
    }
}

fn load() -> Backbone {
    Backbone::load(&path("sd1"), &Device::Cpu, DType::F32).unwrap()
}

fn requests(count: u64, words: &[&str]) -> Vec<Request> {
    let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    let prompt = "photo of a dog next to a wooden pot";
    (0..count).map(|seed| Request { words: words.clone(), ..Request::new(prompt, seed) }).collect()
}

fn sample(backbone: &Backbone, requests: &[Request], sampling: &Sampling) -> Vec<Sample> {
    backbone.sample(requests, sampling, &|_| Ok(())).unwrap()
}

fn near(a: &Array2<f32>, b: &Array2<f32>) -> bool {
    a.dim() == b.dim() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

/// With the kernels and with candle's operations.
fn on_both(check: impl Fn(&Backbone)) {
    check(&load());
    reference(|| check(&load()));
}

#[test]
fn images_are_the_same_with_and_without_maps() {
    on_both(|backbone| {
        // the second with threads inside its operations
        for (count, side) in [(5, 32), (1, 72)] {
            let sampling = sampling(1, 4.0, side);
            let plain = sample(backbone, &requests(count, &[]), &sampling);
            let mut wanted = requests(count, &["dog", "wooden pot"]);
            // not all of a part need have words
            wanted.iter_mut().skip(3).step_by(2).for_each(|request| request.words.clear());
            let seen = sample(backbone, &wanted, &sampling);
            for ((plain, seen), request) in plain.iter().zip(&seen).zip(&wanted) {
                assert_eq!(plain.image, seen.image);
                assert_eq!(floats(&plain.latents), floats(&seen.latents));
                assert!(plain.maps.is_empty());
                let words: Vec<&String> = seen.maps.iter().map(|map| &map.word).collect();
                assert_eq!(words, request.words.iter().collect::<Vec<_>>());
                for map in &seen.maps {
                    assert_eq!(map.map.dim(), (side / 2, side / 2));
                    assert!(map.map.iter().all(|x| (0.0..1.0).contains(x)));
                }
            }
        }
    });
}

#[test]
fn maps_are_the_same_in_any_batch_for_any_number_of_threads() {
    let mut backbone = load();
    let sampling = sampling(2, 4.0, 32);
    let all = requests(6, &["dog", "pot"]);
    let maps = |backbone: &Backbone, requests: &[Request], threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let samples = pool.install(|| sample(backbone, requests, &sampling));
        samples.into_iter().map(|sample| sample.maps).collect::<Vec<_>>()
    };
    let found = maps(&backbone, &all, 1);
    assert!(maps(&backbone, &all, 2) == found);
    let others = maps(&backbone, &all[2..5], 2);
    for (a, b) in others.iter().flatten().zip(found[2..5].iter().flatten()) {
        // as images, to the rounding of products of other shapes
        assert!(a.word == b.word && near(&a.map, &b.map));
    }
    assert!(!near(&found[0][0].map, &found[1][0].map), "of another seed");
    assert!(!near(&found[0][0].map, &found[0][1].map), "of another word");
    backbone.unet.set_checkpointing(true);
    assert!(maps(&backbone, &all, 2) == found, "each layer is seen once");
}

#[test]
fn maps_are_of_the_half_that_has_the_prompt_in_the_mean_over_steps() {
    on_both(|backbone| {
        let of = |prompt: &str, words: &[&str], steps, guidance| {
            let words = words.iter().map(|word| word.to_string()).collect();
            let request = Request { words, ..Request::new(prompt, 3) };
            let sample = sample(backbone, &[request], &sampling(steps, guidance, 32)).remove(0);
            sample.maps.into_iter().map(|word| word.map).collect::<Vec<_>>()
        };
        let prompt = "photo of a dog next to a wooden pot";
        let guided = of(prompt, &["dog", "wooden pot", "wooden", "pot"], 1, 6.0);
        let alone = of(prompt, &["dog"], 1, 1.0);
        assert!(near(&guided[0], &alone[0]), "the first step starts from the same noise");
        assert!(near(&guided[1], &((&guided[2] + &guided[3]) / 2.0)), "words of a phrase");
        let longer = of(prompt, &["dog"], 3, 6.0);
        let change = (&longer[0] - &guided[0]).mapv(f32::abs).sum();
        assert!(change > 1e-3, "other steps count as well: {change}");
        assert!(longer[0].sum() < 2.0 * guided[0].sum(), "a mean, not a sum");
    });
}

#[test]
fn words_that_are_not_in_the_prompt_are_refused() {
    let backbone = load();
    let refused = |prompt: &str, word: &str| {
        let request = Request { words: vec![word.into()], ..Request::new(prompt, 0) };
        let error = backbone.sample(&[request], &sampling(1, 1.0, 32), &|_| Ok(())).err().unwrap();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.hint().is_some());
        error.to_string()
    };
    let error = refused("photo of a dog", "cat");
    assert!(error.contains("`cat`") && error.contains("`photo of a dog`"), "{error}");
    refused("photo of a dog", "");
    refused("photo of a wooden big pot", "wooden pot");
    // behind what is cut off
    refused(&format!("{} cat", "dog ".repeat(80)), "cat");
}

/// In f16, which cannot hold the scores of these queries and keys.
#[test]
fn scores_are_f32_where_the_configuration_upcasts() {
    let sample = |upcast: bool, dtype: DType| {
        let mut files = BackboneFiles::open(&path("sd1").as_str().into()).unwrap();
        files.blueprint.unet.upcast_attention = upcast;
        let backbone = Backbone::read(&files, &Device::Cpu, dtype).unwrap();
        let queries_and_keys = |name: &str| name.contains("to_q") || name.contains("to_k");
        for param in backbone.unet.params().iter().filter(|p| queries_and_keys(p.name())) {
            param.set_from_file(&(param.to_file().unwrap() * 300.0).unwrap()).unwrap();
        }
        backbone.sample(&requests(1, &["dog"]), &sampling(1, 4.0, 32), &|_| Ok(()))
    };
    let error = sample(false, DType::F16).err().expect("scores overflow");
    assert_eq!(error.exit_code(), 6, "{error}");
    let found = sample(true, DType::F16).unwrap().remove(0);
    assert!(found.maps[0].map.iter().all(|x| (0.0..=1.0).contains(x)));
    let [with, without] = [true, false].map(|on| sample(on, DType::F32).unwrap().remove(0));
    assert_eq!(floats(&with.latents), floats(&without.latents));
    assert_eq!(with.image, without.image);
}
