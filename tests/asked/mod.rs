//! A study of made-up results, and people who answer it.
#![allow(dead_code)] // not every test uses all of it

#[path = "../fixture/mod.rs"]
pub mod fixture;

use std::path::Path;

use cdbench::report::{ImageRow, Pictures, Results};
use cdbench::rng::Rng;
use cdbench::study::{Answer, Key, Options, Question, Side, Study, Trial, What, make};
use image::{Rgb, RgbImage};

/// Makes up what it is asked for.
pub struct Drawn;

impl Pictures for Drawn {
    fn sample(&self, row: &ImageRow) -> Option<RgbImage> {
        let hash = row.file.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let [_, r, g, b] = hash.to_be_bytes();
        Some(RgbImage::from_fn(48, 48, |x, y| {
            if (x / 8 + y / 8) % 2 == 0 { Rgb([r, g, b]) } else { Rgb([b, r, g]) }
        }))
    }

    fn targets(&self, concept: &str) -> Vec<RgbImage> {
        let shade = concept.len() as u8 * 9;
        (0..5).map(|i| RgbImage::from_pixel(48, 48, Rgb([shade, 120, i * 30]))).collect()
    }
}

/// A single concept's rows and their pairs, two comparisons of a paper's table each.
pub fn results() -> Results {
    let mut results = fixture::results(1, 0.0);
    results.study = vec!["Custom Diffusion".into(), "Joint".into()];
    results
}

pub fn options() -> Options {
    Options {
        pairs: Some(24),
        per_rater: 40,
        booklets: 12,
        practice: 2,
        catch: 0.15,
        repeats: 0.1,
        minimum_ms: 0,
        base_url: String::new(),
        seed: 0,
    }
}

pub fn study(folder: &Path, options: &Options) -> Study {
    study_of(&results(), folder, options)
}

pub fn study_of(results: &Results, folder: &Path, options: &Options) -> Study {
    let category = |concept: &str| concept.split('_').next().unwrap_or_default().to_owned();
    make(results, &Drawn, &category, options, folder).unwrap()
}

/// How somebody answers.
#[derive(Clone, Copy, Debug)]
pub struct Person {
    /// How often the own image is preferred.
    pub taste: f64,
    /// How often nothing is looked at and the left one is taken.
    pub left: f64,
    /// How often nothing is looked at and one is taken by chance.
    pub careless: f64,
    pub ms: u64,
}

impl Person {
    pub const HONEST: Person = Person { taste: 0.6, left: 0.0, careless: 0.0, ms: 2500 };

    pub fn choose(&self, what: What, rng: &mut Rng) -> Side {
        let coin = |p: f64, rng: &mut Rng| f64::from(rng.uniform(0.0, 1.0)) < p;
        if coin(self.left, rng) {
            return Side::Left;
        }
        let (side, sure) = match what {
            What::Pair { own, .. } | What::Repeat { own, .. } => (own, self.taste),
            What::Catch { good } => (good, 0.98),
            What::Practice => (Side::Left, 0.5),
        };
        let sure = if coin(self.careless, rng) { 0.5 } else { sure };
        if coin(sure, rng) { side } else { side.turned() }
    }
}

pub fn answer(key: &Key, rater: &str, booklet: usize, trial: &Trial, question: Question) -> Answer {
    Answer {
        study: key.study.clone(),
        rater: rater.into(),
        name: String::new(),
        booklet: Some(booklet),
        trial: trial.id.clone(),
        question,
        choice: Side::Left,
        ms: 2000,
        at: 1_800_000_000_000,
        check: String::new(),
    }
}

/// All that somebody answers.
pub fn answers(
    key: &Key,
    rater: &str,
    booklet: usize,
    person: &Person,
    rng: &mut Rng,
) -> Vec<Answer> {
    let mut all = vec![];
    for trial in &key.booklets[booklet] {
        for question in Question::ALL {
            let choice = person.choose(trial.what, rng);
            let given = answer(key, rater, booklet, trial, question);
            all.push(Answer { choice, ms: person.ms, ..given }.signed());
        }
    }
    all
}
