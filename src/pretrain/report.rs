//! Measures a trained mini backbone and writes `report.md` with a contact sheet.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::{Device, Tensor};
use ndarray::Array2;

use super::identity::held_out_area;
use super::judge::{Count, Judge, Truth};
use super::scenes::held_out;
use super::vae::{psnr, restore};
use crate::clip::Vit;
use crate::diffusion::scheduler::SchedulerKind;
use crate::diffusion::{Backbone, Request, Sampling};
use crate::metrics::{kid, wilson};
use crate::world::{self, Background, Category, ColorWord, SIZE, Scene, Style, WorldConfig};
use crate::{Result, safefile};

/// How much is measured.
#[derive(Clone, Debug)]
pub struct ReportArgs {
    /// The backbone's folder, with `clip/` in it.
    pub model: PathBuf,
    /// Where `report.md` and `samples.png` are written.
    pub out: PathBuf,
    /// Images of each prompt.
    pub seeds: usize,
    /// Generated images that KID compares with as many held-out scenes.
    pub kid: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
}

/// Held-out scenes that the judge and the autoencoder are measured on.
const SCENES: usize = 1000;
/// Of these, those the autoencoder is measured on.
const RESTORED: usize = 256;
/// Scenes with each concept, and with other instances of its category, that the identity extractor is
/// measured on.
const VIEWS: usize = 72;
/// Images sampled together.
const BATCH: usize = 8;

/// Measures the folder's models.
///
/// # Errors
/// A model that is missing or damaged; a file that cannot be written.
pub fn report(args: &ReportArgs, device: &Device) -> Result<()> {
    let backbone = Backbone::load(&args.model.to_string_lossy(), device, candle_core::DType::F32)?;
    let judge = Judge::load(&args.model.join("clip"), device)?;
    let mut report = Report::new(args);
    let scenes = held_out(SCENES);

    let targets: Vec<Scene> = world::concepts().iter().flat_map(|c| c.targets()).collect();
    for (what, set) in [("held-out scenes", &scenes[..RESTORED]), ("concepts' targets", &targets)] {
        let restored = restore(&backbone.vae, set, device)?;
        let sum: f64 = set.iter().zip(&restored).map(|(s, r)| psnr(&s.image, r)).sum();
        let value = format!("{:.2} dB (mean of {})", sum / set.len() as f64, set.len());
        report.row(&format!("VAE reconstruction of {what}, PSNR"), "29 dB", &value);
    }

    let right = judge.zero_shot(&scenes)?;
    for (what, count) in
        [("category", right.category), ("background", right.background), ("style", right.style)]
    {
        report.share(&format!("judge, zero-shot on held-out scenes: {what}"), "97 %", count);
    }
    report.share("judge, caption among 100, top 1", "80 %", judge.retrieval(&scenes)?);
    let what = "judge, both colours and kind of pattern among all there are, held-out photos";
    report.share(what, "85 %", judge.looks(&scenes)?);
    let vit = Vit::load(&args.model.join("dino"), device)?;
    let area = held_out_area(&vit, &WorldConfig::default(), VIEWS, device)?;
    let concepts = world::concepts().len();
    report.row(
        "identity extractor, same instance or another of its category, held-out concepts: area",
        "0.97",
        &format!("{area:.3} (mean of {concepts} concepts, {VIEWS} scenes of either kind each)"),
    );
    let pairs: Vec<&Scene> = scenes.iter().filter(|s| s.spec.objects.len() == 2).collect();
    let pairs: Vec<Scene> = pairs.into_iter().cloned().collect();
    let wanted: Vec<[Category; 2]> =
        pairs.iter().map(|s| [s.spec.objects[0].category, s.spec.objects[1].category]).collect();
    let bytes: Vec<Vec<u8>> = pairs.iter().map(|s| s.image.clone()).collect();
    let both = judge.pairs(&judge.images_of_bytes(&bytes)?, &wanted)?;
    report.share("judge, both categories of held-out scenes with two objects", "–", both);

    let singles = singles();
    let prompts: Vec<&str> = singles.iter().map(|(p, _)| p.as_str()).collect();
    let images = report.sample(&backbone, &prompts, args.seeds)?;
    let truths: Vec<Truth> =
        singles.iter().flat_map(|(_, t)| std::iter::repeat_n(*t, args.seeds)).collect();
    let right = judge.right(&judge.images_of_bytes(&images)?, &truths)?;
    for (what, least, count) in [
        ("category", "90 %", right.category),
        ("background", "95 %", right.background),
        ("style", "95 %", right.style),
    ] {
        report.share(&format!("generated from single-object prompts: {what} right"), least, count);
    }
    let canvases = images.iter().filter(|image| has_canvas(image)).count();
    report.share(
        "generated from single-object prompts: a canvas that nobody asked for",
        "at most 1 %",
        (canvases, images.len()),
    );
    report.show(&prompts, &images, 5);

    let colored = colored();
    let prompts: Vec<&str> = colored.iter().map(|(p, ..)| p.as_str()).collect();
    let images = report.sample(&backbone, &prompts, args.seeds)?;
    let features = judge.images_of_bytes(&images)?;
    let mut hits = 0;
    for (i, (_, category, color)) in colored.iter().enumerate() {
        let own = features.narrow(0, i * args.seeds, args.seeds)?;
        hits += judge.colors(&own, *category)?.iter().filter(|c| *c == color).count();
    }
    report.share("generated: colour word right", "85 %", (hits, images.len()));
    report.show(&prompts, &images, 7);

    let two = two_objects();
    let prompts: Vec<&str> = two.iter().map(|(p, _)| p.as_str()).collect();
    let images = report.sample(&backbone, &prompts, args.seeds)?;
    let wanted: Vec<[Category; 2]> =
        two.iter().flat_map(|(_, c)| std::iter::repeat_n(*c, args.seeds)).collect();
    let both = judge.pairs(&judge.images_of_bytes(&images)?, &wanted)?;
    report.share("generated from two-object prompts: both categories found", "60 %", both);
    report.show(&prompts, &images, 6);

    let of = args.kid.min(SCENES);
    let captions: Vec<&str> = scenes[..of].iter().map(|s| s.caption.as_str()).collect();
    let images = report.sample(&backbone, &captions, 1)?;
    let real = |range: std::ops::Range<usize>| {
        let bytes: Vec<Vec<u8>> = scenes[range].iter().map(|s| s.image.clone()).collect();
        judge.images_of_bytes(&bytes)
    };
    let generated = distance(&judge.images_of_bytes(&images)?, &real(0..of)?)?;
    let half = SCENES / 2;
    let ceiling = distance(&real(0..half)?, &real(half..SCENES)?)?;
    let value = format!(
        "{:.2} ({of} against {of}); real against real {:.2} ({half} against {half})",
        1e3 * generated,
        1e3 * ceiling
    );
    report.row("KID ×10³, judge's features, captions of the real scenes", "–", &value);
    report.speed();

    let prompts: Vec<String> =
        world::concepts().iter().map(|c| format!("photo of a {}", c.class())).collect();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let each = 4;
    let images = report.sample(&backbone, &prompts, each)?;
    for (i, concept) in world::concepts().iter().enumerate() {
        let targets: Vec<Vec<u8>> = concept.targets().into_iter().map(|s| s.image).collect();
        let targets = judge.images_of_bytes(&targets)?;
        let own = judge.images_of_bytes(&images[i * each..(i + 1) * each])?;
        let n = targets.dim(0)? as f64;
        let mean = |x: &Tensor| -> Result<f64> {
            Ok(f64::from(x.matmul(&targets.t()?)?.mean_all()?.to_scalar::<f32>()?))
        };
        // pairs of different targets: the diagonal is 1
        let ceiling = (mean(&targets)? * n - 1.0) / (n - 1.0);
        report.concepts.push((concept.name, mean(&own)?, ceiling));
    }
    report.write()
}

/// Whether a side of the picture is the grey that augmentation puts around targets.
fn has_canvas(image: &[u8]) -> bool {
    /// Of 128, in each channel.
    const WITHIN: u8 = 14;
    /// Pixels of a side that may be something else.
    const OTHER: usize = 3;
    let grey = |x: usize, y: usize| {
        let at = 3 * (y * SIZE + x);
        image[at..at + 3].iter().all(|v| v.abs_diff(128) <= WITHIN)
    };
    let last = SIZE - 1;
    let sides: [&dyn Fn(usize) -> bool; 4] =
        [&|i| grey(i, 0), &|i| grey(i, last), &|i| grey(0, i), &|i| grey(last, i)];
    sides.iter().any(|side| (0..SIZE).filter(|&i| !side(i)).count() <= OTHER)
}

/// Prompts with one object: every category on photos of four backgrounds, and in each style.
fn singles() -> Vec<(String, Truth)> {
    let mut prompts = vec![];
    for (i, &category) in Category::ALL.iter().enumerate() {
        for j in 0..4 {
            let background = Background::ALL[(i + 2 * j) % Background::ALL.len()];
            let prompt = format!("photo of a {} {}", category.word(), place(background));
            prompts.push((prompt, Truth { category, background, style: Style::Photo }));
        }
        for (j, &style) in Style::ALL.iter().filter(|s| **s != Style::Photo).enumerate() {
            let background = Background::ALL[(i + 3 * j + 1) % Background::ALL.len()];
            let painting = if style == Style::Watercolor { " painting" } else { "" };
            let (style_word, noun) = (style.word(), category.word());
            let prompt = format!("{style_word}{painting} of a {noun} {}", place(background));
            prompts.push((prompt, Truth { category, background, style }));
        }
    }
    prompts
}

/// Photos of objects in a colour that is named: every category in five of the ten colours.
fn colored() -> Vec<(String, Category, ColorWord)> {
    let colors = ColorWord::ALL.len();
    let prompt = |(i, &category): (usize, &Category)| {
        (0..5).map(move |j| {
            let color = ColorWord::ALL[(i + 2 * j) % colors];
            let background = Background::ALL[(i + 3 * j) % Background::ALL.len()];
            let (c, n, p) = (color.word(), category.word(), place(background));
            (format!("photo of a {c} {n} {p}"), category, color)
        })
    };
    Category::ALL.iter().enumerate().flat_map(prompt).collect()
}

/// Every two categories once.
fn two_objects() -> Vec<(String, [Category; 2])> {
    let mut prompts = vec![];
    for (i, &a) in Category::ALL.iter().enumerate() {
        for &b in &Category::ALL[i + 1..] {
            let n = prompts.len();
            let relation = if n % 3 == 2 { "on top of" } else { "next to" };
            let (a, b) = if n % 2 == 0 { (a, b) } else { (b, a) };
            let place = place(Background::ALL[n % Background::ALL.len()]);
            let prompt = format!("photo of a {} {relation} a {} {place}", a.word(), b.word());
            prompts.push((prompt, [a, b]));
        }
    }
    prompts
}

/// The phrase that puts something into a background.
pub(super) fn place(background: Background) -> &'static str {
    match background {
        Background::Beach => "on the beach",
        Background::Snow => "in the snow",
        Background::Forest => "in the forest",
        Background::City => "in the city",
        Background::Desert => "in the desert",
        Background::Night => "at night",
        Background::Room => "in the room",
        Background::Underwater => "underwater",
    }
}

/// The table, and what it is made of.
struct Report<'a> {
    args: &'a ReportArgs,
    rows: Vec<[String; 3]>,
    concepts: Vec<(&'static str, f64, f64)>,
    shown: Vec<(Vec<u8>, String)>,
    sampled: usize,
    seconds: f64,
}

impl<'a> Report<'a> {
    fn new(args: &'a ReportArgs) -> Self {
        Report { args, rows: vec![], concepts: vec![], shown: vec![], sampled: 0, seconds: 0.0 }
    }

    fn row(&mut self, what: &str, least: &str, value: &str) {
        eprintln!("{what}: {value}");
        self.rows.push([what, least, value].map(str::to_owned));
    }

    fn share(&mut self, what: &str, least: &str, (hits, of): Count) {
        let (low, high) = wilson(hits, of);
        let share = 100.0 * hits as f64 / of.max(1) as f64;
        let value =
            format!("{share:.1} % ({hits} of {of}; {:.1}–{:.1})", 100.0 * low, 100.0 * high);
        self.row(what, least, &value);
    }

    /// Pictures of the prompts, `seeds` of each together, as bytes.
    fn sample(
        &mut self,
        backbone: &Backbone,
        prompts: &[&str],
        seeds: usize,
    ) -> Result<Vec<Vec<u8>>> {
        let sampling = Sampling {
            steps: self.args.steps,
            guidance: self.args.guidance,
            scheduler: SchedulerKind::Ddim,
            eta: 0.0,
            height: SIZE,
            width: SIZE,
            negative_prompt: String::new(),
        };
        let requests: Vec<Request> = prompts
            .iter()
            .flat_map(|prompt| (0..seeds).map(move |seed| (prompt, seed)))
            .enumerate()
            .map(|(i, (prompt, _))| Request::new(*prompt, i as u64))
            .collect();
        let mut images = vec![];
        for chunk in requests.chunks(BATCH) {
            let start = Instant::now();
            let samples = backbone.sample(chunk, &sampling, &|_| Ok(()))?;
            if chunk.len() == BATCH {
                self.sampled += BATCH;
                self.seconds += start.elapsed().as_secs_f64();
            }
            images.extend(samples.into_iter().map(|s| s.image.into_raw()));
        }
        Ok(images)
    }

    /// Puts the pictures of every `apart`-th prompt on the contact sheet.
    fn show(&mut self, prompts: &[&str], images: &[Vec<u8>], apart: usize) {
        for (i, prompt) in prompts.iter().enumerate().step_by(apart) {
            for image in images[i * self.args.seeds..].iter().take(self.args.seeds) {
                self.shown.push((image.clone(), (*prompt).to_owned()));
            }
        }
    }

    fn speed(&mut self) {
        let value = format!(
            "{:.2} s (mean of {}; {} threads)",
            self.seconds / self.sampled.max(1) as f64,
            self.sampled,
            rayon::current_num_threads()
        );
        let what =
            format!("one 64×64 image, {} steps with guidance, batch {BATCH}", self.args.steps);
        self.row(&what, "0.5 s", &value);
    }

    fn write(&self) -> Result<()> {
        let ReportArgs { out, seeds, steps, guidance, .. } = self.args;
        let mut text = format!(
            "# What the mini backbone can do\n\nMeasured by `cdbench pretrain report`: weights as \
             shipped (f16), DDIM, {steps} steps, guidance {guidance}, {seeds} images of a prompt. \
             Percentages with counts and Wilson's 95 % intervals; category, background, style and \
             colour are what the judge (`clip/`) finds nearest among all there are. See \
             `samples.png`.\n\n| measure | at least | found |\n|---|---|---|\n"
        );
        for [what, least, value] in &self.rows {
            let _ = writeln!(text, "| {what} | {least} | {value} |");
        }
        text += "\n## Held-out concepts are new\n\nMean cosine of the judge's features: images of the \
                 plain class prompt against the concept's targets, and the targets against each \
                 other.\n\n| concept | pretrained | targets |\n|---|---|---|\n";
        for (name, own, ceiling) in &self.concepts {
            let _ = writeln!(text, "| {name} | {own:.3} | {ceiling:.3} |");
        }
        safefile::write(&out.join("report.md"), &text)?;
        let cells: Vec<(&[u8], &str)> =
            self.shown.iter().map(|(b, t)| (b.as_slice(), t.as_str())).collect();
        world::sheet(&cells, 8, &out.join("samples.png"))?;
        println!("{text}");
        Ok(())
    }
}

/// KID of two sets of the judge's features, a row of length 1 each: scaled so that x·x is d, as the
/// features of a network about are.
fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let scaled = |x: &Tensor| -> Result<Array2<f32>> {
        let (n, d) = x.dims2()?;
        let values = (x * (d as f64).sqrt())?.flatten_all()?.to_vec1()?;
        Ok(Array2::from_shape_vec((n, d), values).expect("n · d values"))
    };
    let (a, b) = (scaled(a)?, scaled(b)?);
    Ok(kid(a.view(), b.view(), 1, a.nrows().max(b.nrows()), 0)?.mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn kid_is_near_zero_within_a_distribution_and_not_across() {
        let mut rng = Rng::new(1, "kid");
        let mut draw = |shift: f64| {
            let x = (rng.normal((200, 8), &Device::Cpu).unwrap() + shift).unwrap();
            x.broadcast_div(&x.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap()).unwrap()
        };
        let (a, b, c) = (draw(0.0), draw(0.0), draw(1.0));
        assert!(distance(&a, &b).unwrap().abs() < 0.02, "{}", distance(&a, &b).unwrap());
        assert!(distance(&a, &c).unwrap() > 0.2, "{}", distance(&a, &c).unwrap());
    }

    #[test]
    fn a_canvas_is_seen_and_a_scene_is_none() {
        let mut rng = Rng::new(1, "canvas");
        let scenes = held_out(60);
        assert!(scenes.iter().all(|scene| !has_canvas(&scene.image)));
        for scene in scenes {
            let shown = crate::data::place(&crate::data::scene_image(&scene), SIZE, 0.8, &mut rng);
            assert!(has_canvas(shown.image.as_raw()), "{}", scene.caption);
        }
    }

    #[test]
    fn prompts_are_of_the_vocabulary() {
        let vocabulary = world::vocabulary();
        let all = singles().into_iter().map(|(p, _)| p);
        let all = all.chain(colored().into_iter().map(|(p, ..)| p));
        for prompt in all.chain(two_objects().into_iter().map(|(p, _)| p)) {
            assert!(prompt.split(' ').all(|word| vocabulary.contains(&word)), "{prompt}");
        }
    }
}
