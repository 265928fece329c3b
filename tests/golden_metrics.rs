//! KID against torch-fidelity, the alignments against the authors' formula, other measures against their
//! definitions: `tests/golden/metrics.py` and `measures.py` say how the values were made.

mod common;

use candle_core::{DType, Tensor};
use cdbench::metrics::{
    Given, KID_SUBSETS, Outcome, Registry, Subset, image_alignment, kid, kid_over, text_alignment,
};
use common::Golden;
use ndarray::{Array2, s};

fn features(golden: &Golden, key: &str) -> Array2<f32> {
    let x = golden.get(key);
    Array2::from_shape_vec(x.dims2().unwrap(), common::floats(x)).unwrap()
}

fn doubles(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_near(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (f, w) in found.iter().zip(wanted) {
        assert!((f - w).abs() <= 1e-6 * w.abs().max(1.0), "{f} {w}");
    }
}

#[test]
fn kid_is_that_of_torch_fidelity() {
    let golden = Golden::load("metrics.safetensors");
    let (a, b) = (features(&golden, "generated"), features(&golden, "real"));

    let all = kid(a.slice(s![..30, ..]), b.view(), KID_SUBSETS, 1000, 0).unwrap();
    assert_near(&[all.mean, all.std], &doubles(golden.get("kid.all")));

    let rows = |key: &str| golden.get(key).to_vec2::<i64>().unwrap();
    let usize_of = |rows: Vec<i64>| rows.into_iter().map(|r| r as usize).collect();
    let subsets: Vec<Subset> = rows("kid.rows_generated")
        .into_iter()
        .zip(rows("kid.rows_real"))
        .map(|(x, y)| [usize_of(x), usize_of(y)])
        .collect();
    let some = kid_over(a.view(), b.view(), &subsets).unwrap();
    let wanted = doubles(golden.get("kid.subsets"));
    assert_near(&[some.mean, some.std], &wanted);

    // other subsets of the same number give the same up to their choice
    let own = kid(a.view(), b.view(), 400, 20, 0).unwrap();
    assert!((own.mean - wanted[0]).abs() < 4.0 * wanted[1] / 5.0, "{own:?} {wanted:?}");
    assert!((own.std / wanted[1] - 1.0).abs() < 0.5, "{own:?} {wanted:?}");
}

#[test]
fn alignments_are_those_of_the_authors() {
    let golden = Golden::load("metrics.safetensors");
    let [images, texts, targets] = ["generated", "texts", "real"].map(|k| features(&golden, k));
    let text = text_alignment(images.view(), texts.view());
    assert_near(&text, &doubles(golden.get("text")));
    assert!(text.contains(&0.0), "the golden values hold a negative cosine");
    let image = image_alignment(images.view(), targets.view());
    assert_near(&image, &doubles(golden.get("image")));
    let mean = image.iter().sum::<f64>() / image.len() as f64;
    assert_near(&[mean], &doubles(golden.get("image.mean")));
}

#[test]
fn other_measures_are_as_they_are_defined() {
    let (features_of, golden) =
        (Golden::load("metrics.safetensors"), Golden::load("measures.safetensors"));
    let [images, real] = ["generated", "real"].map(|k| features(&features_of, k));
    let groups: Vec<usize> = (0..40).map(|i| i / 5).collect();
    let of = |name: &str| {
        let chosen = Registry::default().choose(Some(&[name.to_owned()])).unwrap();
        let (images, against) = (images.view(), real.view());
        let given = Given {
            images,
            groups: &groups,
            against,
            itself: false,
            weights: &[],
            maps: &[],
            files: None,
        };
        chosen[0].measure.measure(&given).unwrap().unwrap()
    };
    let Outcome::Set(cmmd) = of("cmmd") else { panic!("a value of the set") };
    assert_near(&[cmmd.value, cmmd.se_images.unwrap()], &doubles(golden.get("cmmd")));
    let Outcome::Images(nearest) = of("copying") else { panic!("a value of each image") };
    assert_near(&nearest, &doubles(golden.get("nearest")));
    let Outcome::Images(diversity) = of("diversity") else { panic!("a value of each image") };
    let mean = diversity.iter().sum::<f64>() / 40.0;
    assert_near(&[mean], &doubles(golden.get("diversity")));
}
