//! A measure of another program: added to an experiment's registry, it is planned, measured, shown, kept
//! and checked like those of this one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};
use cdbench::clip::Runtime;
use cdbench::engine::{Filter, Machine, Resources, Store, plan, results, run, survey};
use cdbench::metrics::{Better, Given, Gives, Measure, Need, Outcome};
use cdbench::report::{Baseline, Markdown, Results, Tolerance, Verdict, check, export, tables};
use cdbench::spec::Experiment;

/// How long the features of an image are.
struct Length;

impl Measure for Length {
    fn name(&self) -> &'static str {
        "length"
    }

    fn title(&self) -> &'static str {
        "length of features"
    }

    fn definition(&self) -> &'static str {
        "Euclidean"
    }

    fn better(&self) -> Better {
        Better::Less
    }

    fn tolerance(&self) -> f64 {
        0.1
    }

    fn need(&self) -> Need {
        Need::Images
    }

    fn gives(&self) -> Gives {
        Gives::Images
    }

    fn measure(&self, given: &Given) -> cdbench::Result<Option<Outcome>> {
        let length = |row: ndarray::ArrayView1<f32>| f64::from(row.dot(&row)).sqrt();
        Ok(Some(Outcome::Images(given.images.outer_iter().map(length).collect())))
    }
}

const TEXT: &str = r#"
name = "own"
title = "a measure of its own"
metrics = ["length", "text-alignment"]
[sampling]
steps = 2
scheduler = "dpm++"
[[rows]]
method = "custom-diffusion"
settings = { steps = 2, class_images = 4 }
[scales.default]
concepts = ["dog_plum"]
prompts = 3
real_images = 4
"#;

#[test]
fn a_measure_is_added_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let mut experiment = Experiment::parse(TEXT, &[], Path::new("")).unwrap();
    experiment.registry.add(Arc::new(Length));
    let scale = experiment.scale("default").unwrap();
    let (device, runtime) = (Device::Cpu, Runtime::default());
    let machine = Machine { device, runtime, dtype: DType::F32, tf32: false };
    let (concepts, pairs) = (&scale.concepts, &scale.pairs);
    let backbone = experiment.backbone().unwrap();
    let resources =
        Resources::new(&experiment, &backbone, concepts, pairs, machine, &store).unwrap();
    // what is computed in is part of the protocol and of every key
    let identity = |dtype, tf32| {
        let machine = Machine { device: Device::Cpu, runtime, dtype, tf32 };
        let other = Resources::new(&experiment, &backbone, concepts, pairs, machine, &store);
        other.unwrap().backbone_identity().to_owned()
    };
    let (f32, tf32) = (identity(DType::F32, false), identity(DType::F32, true));
    let bf16 = identity(DType::BF16, false);
    assert_eq!(f32, resources.backbone_identity());
    assert!(f32 != tf32 && f32 != bf16 && tf32 != bf16);
    let plan = plan(&experiment, &scale, &Filter::default(), &resources).unwrap();
    // nothing asked for real images, so that none are sampled for
    assert!(plan.stages.iter().all(|s| !s.name.contains("captions")));
    let wanted: Vec<usize> = plan.cells.iter().map(|c| c.scores).collect();
    let todo = survey(&plan, &store, &resources, &wanted).unwrap();
    let stop = AtomicBool::new(false);
    let outcome = run(&plan, &store, &resources, &todo, &1.into(), &stop, &|_| {}).unwrap();
    assert!(outcome.failed.is_empty(), "{outcome:?}");

    let found = results(&experiment, &scale, &plan, &store, &resources).unwrap();
    let page = export(&tables(&found)[..1], &Markdown);
    assert!(page.contains("length of features") && page.contains("text alignment"), "{page}");
    let images: Vec<f64> = found.images.iter().filter_map(|i| i.value("length")).collect();
    assert!(images.len() == 9 && images.iter().all(|v| *v > 0.0), "{images:?}");
    let copies = found.cells.iter().find(|c| c.method == "copies").unwrap();
    assert_eq!(copies.values["length"].estimate().groups, 3, "every prompt answered with copies");

    found.write(dir.path()).unwrap();
    assert_eq!(Results::read(dir.path()).unwrap(), found);
    let outcome = check(&found, &Baseline::of(&found), &Tolerance::default());
    assert!(outcome.verdict() == Verdict::Passed);
    assert!(outcome.unchanged.iter().any(|c| c.metric.name == "length"));
}
