use candle_core::DType;
use image::Rgb;

use super::super::{Profile, find};
use super::*;
use crate::data::{PAPER_SIZES, PREFIXES_FAR, PREFIXES_NEAR};
use crate::nn::reference;

fn backbone() -> Backbone {
    let folder = format!("{}/tests/golden/sd1", env!("CARGO_MANIFEST_DIR"));
    Backbone::load(&folder, &Device::Cpu, DType::F32).unwrap()
}

fn instance(name: &str, pictures: u8, class: u8) -> Instance {
    let image = |i: u8| RgbImage::from_pixel(40, 36, Rgb([10 * i, 100, 20]));
    Instance {
        name: name.into(),
        category: name.into(),
        pictures: (0..pictures).map(image).collect(),
        class: (0..class)
            .map(|i| ClassPicture { image: image(i + 100), caption: format!("{name} number {i}") })
            .collect(),
    }
}

fn settings() -> Settings {
    let defaults = find("custom-diffusion").unwrap().defaults(Profile::Mini, 1);
    Settings { batch: 8, class_images: 6, augmentation_sizes: PAPER_SIZES, ..defaults }
}

/// The captions of some steps, targets and class images apart.
fn captions(task: &mut ImageTask, steps: u64) -> (Vec<String>, Vec<String>) {
    let mut streams = Streams::new(3);
    let (mut targets, mut classes) = (vec![], vec![]);
    for step in 0..steps {
        let mut batch = task.next_batch(step, &mut streams).unwrap().captions;
        classes.extend(batch.split_off(batch.len() - task.settings.class_batch()));
        targets.extend(batch);
    }
    (targets, classes)
}

#[test]
fn halves_and_turns() {
    let backbone = backbone();
    let instances = [instance("dog", 1, 9), instance("cat", 3, 6)];
    let phrases = ["<new1> dog".to_owned(), "<new2> cat".to_owned()];
    let settings = settings();
    let mut task = ImageTask::new(&backbone, &settings, &instances, &phrases).unwrap();
    let (targets, classes) = captions(&mut task, 3);
    let count = |all: &[String], what: &str| all.iter().filter(|c| c.contains(what)).count();
    assert_eq!((targets.len(), classes.len()), (12, 12));
    for phrase in phrases {
        assert_eq!(count(&targets, &format!("photo of a {phrase}")), 6, "{targets:?}");
    }
    // the 6 class images that are used, of each concept, once each
    for name in ["dog", "cat"] {
        for i in 0..6 {
            assert_eq!(count(&classes, &format!("{name} number {i}")), 1, "{classes:?}");
        }
    }
    let sizes = PREFIXES_FAR.iter().chain(&PREFIXES_NEAR);
    let sized = targets.iter().filter(|c| sizes.clone().any(|s| c.starts_with(s))).count();
    assert!(sized > 0 && sized < 12, "{targets:?}");
}

#[test]
fn sizes_are_those_of_the_settings() {
    let backbone = backbone();
    let instances = [instance("dog", 3, 6)];
    for (sizes, far, near) in
        [([0.4, 1.4], true, true), ([0.7, 1.4], false, true), ([0.7, 1.0], false, false)]
    {
        let settings = Settings { augmentation_sizes: sizes, ..settings() };
        let mut task = ImageTask::new(&backbone, &settings, &instances, &["dog".into()]).unwrap();
        let (targets, _) = captions(&mut task, 10);
        let any = |words: [&str; 2]| targets.iter().any(|c| words.iter().any(|w| c.starts_with(w)));
        assert_eq!((any(PREFIXES_FAR), any(PREFIXES_NEAR)), (far, near), "{targets:?}");
    }
}

#[test]
fn without_regularisation_and_augmentation() {
    let backbone = backbone();
    let instances = [instance("dog", 3, 0)];
    let settings = Settings {
        regularization: super::super::Regularization::None,
        augmentation: false,
        hflip: false,
        batch: 3,
        ..settings()
    };
    let phrases = ["dog".to_owned()];
    let mut task = ImageTask::new(&backbone, &settings, &instances, &phrases).unwrap();
    let (targets, _) = captions(&mut task, 2);
    assert!(targets.iter().all(|c| c == "photo of a dog"));
    assert_eq!(task.encoded.len(), 3, "each image is encoded once");
    let regularised = self::settings();
    assert!(ImageTask::new(&backbone, &regularised, &instances, &phrases).is_err());
}

#[test]
fn target_and_class_images_weigh_the_same() {
    let backbone = backbone();
    let instances = [instance("dog", 2, 2)];
    let settings = Settings { prior_weight: 0.5, ..settings() };
    let task = ImageTask::new(&backbone, &settings, &instances, &["dog".into()]).unwrap();
    let mut masks = vec![1.0; 256];
    masks.extend((0..256).map(|i| f32::from(u8::from(i < 16))));
    let weights = task.weights(masks, 2, 3).unwrap();
    let sum = |i: usize| {
        let of = weights.get(i).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        f64::from(of.iter().sum::<f32>()) * 4.0
    };
    for (i, wanted) in [0.5, 0.5, 0.5 / 3.0, 0.5 / 3.0, 0.5 / 3.0].into_iter().enumerate() {
        assert!((sum(i) - wanted).abs() < 1e-6, "image {i}: {}", sum(i));
    }
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    let apart = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    apart.max(0).unwrap().to_scalar().unwrap()
}

/// Pictures that are told apart by where they are bright.
fn striped(count: u32) -> Vec<RgbImage> {
    let image = |i: u32| {
        RgbImage::from_fn(32, 32, |x, y| Rgb([(x * (i + 1)) as u8, (y * 7) as u8, 40 * i as u8]))
    };
    (0..count).map(image).collect()
}

/// As a GPU does it, and on the CPU's kernels, where each image is encoded alone.
#[test]
fn images_of_a_step_are_encoded_together_and_kept_ones_alone() {
    let (settings, instances, phrases) = (settings(), [instance("dog", 2, 6)], ["dog".to_owned()]);
    let kept = |index| Source { subject: 0, class: true, index, mirrored: false };
    let check = |whole: bool| {
        let backbone = backbone();
        let mut task = ImageTask::new(&backbone, &settings, &instances, &phrases).unwrap();
        let pictures = striped(5);
        assert_eq!(backbone.encoded_together((task.latent, task.latent)) >= 5, whole);
        let mut shown: Vec<Shown> = pictures.iter().cloned().map(Shown::Fresh).collect();
        shown.insert(1, Shown::Whole(kept(0)));
        shown.push(Shown::Whole(kept(3)));
        let found = task.encode(&shown).unwrap();
        assert_eq!((found.len(), task.encoded.len()), (7, 2));
        let alone = |image: &RgbImage| task.encode_together(&[image]).unwrap().remove(0);
        let same = |(a, b): &(Tensor, Tensor), (c, d): &(Tensor, Tensor), bits: bool| {
            assert_eq!((a.dims(), b.dims()), (c.dims(), d.dims()));
            let apart = difference(a, c).max(difference(b, d));
            if bits { apart == 0.0 } else { apart < 1e-4 }
        };
        let fresh = [0, 2, 3, 4, 5].map(|i| &found[i]);
        for (i, picture) in pictures.iter().enumerate() {
            assert!(same(fresh[i], &alone(picture), !whole), "picture {i}");
            assert!(i == 0 || !same(fresh[i], fresh[i - 1], false), "pictures differ");
        }
        for (i, source) in [(1, kept(0)), (6, kept(3))] {
            assert!(same(&found[i], &alone(&task.picture(source)), true), "kept image {i}");
        }
    };
    check(false);
    reference(|| check(true));
}

#[test]
fn a_step_has_the_same_latents_with_and_without_the_kernels() {
    let (settings, instances, phrases) = (settings(), [instance("dog", 2, 6)], ["dog".to_owned()]);
    let drawn = || {
        let backbone = backbone();
        let mut task = ImageTask::new(&backbone, &settings, &instances, &phrases).unwrap();
        let mut streams = Streams::new(3);
        let steps: Vec<Noised> =
            (0..2).map(|step| task.next_batch(step, &mut streams).unwrap()).collect();
        let loss = |batch: &Noised| {
            let part = Part { images: 0..8, batch: 8 };
            let loss = no_grad(|| batch.loss(&backbone, &part)).unwrap();
            loss.value().to_scalar::<f32>().unwrap()
        };
        steps.iter().map(loss).collect::<Vec<_>>()
    };
    for (kernels, whole) in drawn().into_iter().zip(reference(drawn)) {
        assert!((kernels - whole).abs() < 1e-4 * kernels.abs(), "{kernels}, {whole}");
    }
}

/// Only where the CPU's kernels do not run; f16 overflows.
#[test]
fn images_are_encoded_in_bf16_where_that_is_computed_in() {
    let folder = format!("{}/tests/golden/sd1", env!("CARGO_MANIFEST_DIR"));
    let encoded = |dtype: DType| {
        let backbone = Backbone::load(&folder, &Device::Cpu, dtype).unwrap();
        let pictures: Vec<Tensor> = striped(2).iter().map(|i| from_rgb(i).unwrap()).collect();
        let pictures = Var::constant(Tensor::stack(&pictures, 0).unwrap());
        let mean = backbone.vae.encode(&pictures).unwrap().mean.value().clone();
        let decoded = backbone.vae.decode(&Var::constant(mean.clone())).unwrap();
        assert_eq!((mean.dtype(), decoded.value().dtype()), (DType::F32, DType::F32));
        let decoder = |p: &&crate::nn::Param| p.name().contains("decoder");
        assert!(
            backbone.vae.params().iter().filter(decoder).all(|p| p.value().dtype() == DType::F32)
        );
        (backbone.vae.encoding_dtype(), mean)
    };
    let (dtype, wanted) = encoded(DType::F32);
    assert_eq!(dtype, DType::F32);
    let (dtype, on_kernels) = encoded(DType::BF16);
    assert!(dtype == DType::F32 && difference(&on_kernels, &wanted) == 0.0);
    reference(|| {
        assert_eq!(encoded(DType::F16).0, DType::F32);
        let (dtype, found) = encoded(DType::BF16);
        let scale = wanted.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let apart = difference(&found, &wanted) / scale.to_scalar::<f32>().unwrap();
        assert!(dtype == DType::BF16 && apart > 0.0 && apart < 0.05, "{apart}");
    });
}
