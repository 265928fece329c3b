//! Results that nobody measured, for tests: random but plausible, with something of everything.
// also compiled into tests/report.rs, hence `super`

use super::{Cell, ImageRow, Results, Rng};
use super::{KID_SUBSET, KID_SUBSETS, Kid};

const PROMPTS: usize = 6;
const IMAGES: usize = 3;

/// Rows of the table: group, label, the paper's row, method, text, image, KID, bytes, seconds.
type Row = (&'static str, &'static str, &'static str, &'static str, f64, f64, f64, u64, f64);
const ROWS: [Row; 10] = [
    ("single", "Custom Diffusion", "Ours", "custom-diffusion", 0.74, 0.80, 0.018, 310_000, 61.0),
    (
        "single",
        "Textual Inversion",
        "Textual Inversion",
        "textual-inversion",
        0.61,
        0.83,
        0.022,
        700,
        95.5,
    ),
    ("single", "DreamBooth", "DreamBooth", "dreambooth", 0.72, 0.79, 0.033, 9_300_000, 210.0),
    (
        "single",
        "w/ fine-tune all",
        "Ours w/ fine-tune all",
        "fine-tune-all",
        0.745,
        0.78,
        0.02,
        9_300_000,
        140.0,
    ),
    ("single", "Tuned & 100% new_one", "", "new-one", 0.70, 0.75, 0.05, 310_000, 3.2),
    (
        "multi",
        "Textual Inversion",
        "Textual Inversion",
        "textual-inversion",
        0.52,
        0.65,
        0.0,
        1400,
        190.0,
    ),
    ("multi", "DreamBooth", "DreamBooth", "dreambooth", 0.70, 0.68, 0.0, 9_300_000, 420.0),
    ("multi", "Joint", "Ours (Joint)", "custom-diffusion", 0.72, 0.70, 0.0, 310_000, 120.0),
    ("multi", "Merge", "Ours (Optimization)", "merge", 0.715, 0.695, 0.0, 310_000, 2.0),
    ("multi", "Sequential", "Ours (Sequential)", "sequential", 0.71, 0.68, 0.0, 310_000, 120.0),
];
const ANCHORS: [(&str, &str, f64, f64, f64); 3] = [
    ("Pretrained", "pretrained", 0.76, 0.60, 0.022),
    ("Real images (ceiling)", "real", 0.70, 0.90, 0.001),
    ("Copies of training images", "copies", 0.45, 0.95, 0.08),
];

/// Three concepts and two pairs under all methods; `shift` is added to the text alignment of Custom
/// Diffusion and Joint, and `noise` seeds what is random.
pub fn results(noise: u64, shift: f64) -> Results {
    let mut out = Results {
        experiment: "table1".into(),
        title: "Table 1, made up".into(),
        scale: "default".into(),
        protocol: "a1b2c3".into(),
        protocol_text: "No model was run: these are random numbers for tests.".into(),
        table: Some("table1".into()),
        cells: vec![],
        images: vec![],
        failed: vec![],
    };
    let sets: [&[&str]; 5] = [
        &["dog_plum"],
        &["cat_mint"],
        &["chair_rose"],
        &["dog_plum", "cat_mint"],
        &["cat_mint", "chair_rose"],
    ];
    let anchors = ["single", "multi"].into_iter().flat_map(|group| {
        ANCHORS.map(|(label, method, text, image, kid)| {
            (group, label, "", method, text, image, kid, 0, 0.0)
        })
    });
    let rows = ROWS.into_iter().map(|r| (r, false)).chain(anchors.map(|r| (r, true)));
    for ((group, label, paper, method, text, image, kid, bytes, seconds), anchor) in rows {
        let of_group =
            sets.iter().enumerate().filter(|(_, s)| (s.len() == 1) == (group == "single"));
        for (c, concepts) in of_group {
            let id = format!("{method}-{}", concepts.join("-"));
            let mut own = Rng::new(noise, &id);
            let mut uniform = |width: f32| f64::from(own.uniform(-width, width));
            let kid = (group == "single" && method != "copies").then(|| Kid {
                mean: kid + 0.002 * c as f64 + uniform(1e-3),
                std: 0.0,
                se: 0.0025,
                se_generated: 0.0015,
                subsets: KID_SUBSETS,
                m: 60,
                n: [60, KID_SUBSET],
            });
            let mut cell = Cell {
                id: id.clone(),
                group: group.into(),
                concepts: concepts.iter().map(|c| (*c).into()).collect(),
                method: method.into(),
                label: label.into(),
                paper_row: (!paper.is_empty()).then(|| paper.into()),
                anchor,
                kid,
                steps: 250,
                train_seconds: seconds,
                stored_bytes: bytes,
                peak_mb: 512.5,
                ..Cell::default()
            };
            let lift = if ["Custom Diffusion", "Joint"].contains(&label) { shift } else { 0.0 };
            let mut images = vec![];
            for prompt in 0..PROMPTS {
                // prompts are hard or easy for all methods alike
                let mut shared = Rng::new(7, &format!("{c} {prompt}"));
                let mut hard = |width: f32| f64::from(shared.uniform(-width, width));
                let (text_of, image_of) = (hard(0.08), hard(0.05));
                for seed in 0..IMAGES as u64 {
                    images.push(ImageRow {
                        cell: id.clone(),
                        prompt,
                        text_prompt: format!(
                            "photo of a {} {}",
                            concepts.join(" and a "),
                            PLACES[prompt]
                        ),
                        seed,
                        text: text + lift + text_of + uniform(0.03),
                        image: concepts
                            .iter()
                            .map(|_| image + image_of - 0.01 * c as f64 + uniform(0.03))
                            .collect(),
                        file: format!("samples/{id}/{prompt}-{seed}.png"),
                    });
                }
            }
            cell.measure(&images.iter().collect::<Vec<_>>());
            out.cells.push(cell);
            out.images.extend(images);
        }
    }
    out
}

const PLACES: [&str; PROMPTS] = [
    "on the beach",
    "in the snow, with a very long description that has to be broken into lines",
    "in the forest",
    "at night",
    "as a watercolor painting",
    "underwater",
];

/// Takes the cell of a label and concept away, as if it had failed.
pub fn fail(results: &mut Results, label: &str, concept: &str) {
    for cell in &mut results.cells {
        if cell.label == label && cell.concepts[0] == concept {
            results.images.retain(|i| i.cell != cell.id);
            results.failed.push((cell.id.clone(), "the loss is not finite at step 12".into()));
            let Cell { id, group, concepts, method, label, paper_row, anchor, .. } =
                std::mem::take(cell);
            *cell =
                Cell { id, group, concepts, method, label, paper_row, anchor, ..Cell::default() };
        }
    }
}
