use candle_core::DType;
use image::Rgb;

use super::super::{Profile, find};
use super::*;
use crate::data::{PAPER_SIZES, PREFIXES_FAR, PREFIXES_NEAR};

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
