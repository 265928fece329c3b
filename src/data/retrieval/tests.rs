use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clip::Embed;
use crate::data::{FileCorpus, WorldCorpus};
use crate::world::Category;

/// Words as directions: a text's features count the words that mean something.
struct Words {
    identity: &'static str,
    asked: AtomicUsize,
    /// How much a category counts; other words count 2.
    category: f32,
}

impl Words {
    fn new() -> Self {
        Words { identity: "words", asked: AtomicUsize::new(0), category: 2.0 }
    }
}

impl Embed for Words {
    fn images(&self, _: &[&RgbImage]) -> Result<Array2<f32>> {
        Err(Error::input("not needed"))
    }

    fn texts(&self, texts: &[&str]) -> Result<Array2<f32>> {
        self.asked.fetch_add(texts.len(), Ordering::Relaxed);
        let mut out = Array2::zeros((texts.len(), 1021));
        for (mut row, text) in out.rows_mut().into_iter().zip(texts) {
            for word in text.split(' ').filter(|w| !["a", "an", "the", "of"].contains(w)) {
                let place = word.bytes().fold(7usize, |h, b| (h * 31 + b as usize) % 1021);
                let category = Category::ALL.iter().any(|c| c.word() == word);
                row[place] += if category { self.category } else { 2.0 };
            }
        }
        Ok(out)
    }

    fn identity(&self) -> &str {
        self.identity
    }
}

/// Captions, and a picture whose colour is a number; two pictures of one number are the same.
struct Listed(Vec<(&'static str, u8)>);

impl Corpus for Listed {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn caption(&self, index: usize) -> Option<String> {
        self.0.get(index).map(|c| c.0.to_owned())
    }
    fn picture(&self, index: usize) -> Result<RgbImage> {
        match self.0[index].1 {
            0 => Err(Error::input(format!("picture {index} is corrupt"))),
            color => Ok(RgbImage::from_pixel(2, 2, image::Rgb([color; 3]))),
        }
    }
    fn identity(&self) -> String {
        "listed".into()
    }
}

fn queries(of: &[&str]) -> Vec<String> {
    of.iter().map(|q| q.to_string()).collect()
}

fn indices(manifest: &Manifest) -> Vec<usize> {
    manifest.entries.iter().map(|e| e.index).collect()
}

#[test]
fn the_nearest_come_first_and_ties_in_order() {
    let corpus = Listed(vec![
        ("a red car", 1),
        ("photo of a dog", 2),
        ("photo of a big dog", 3),
        ("photo of a dog", 4),
        ("photo of a cat", 5),
        ("photo of a dog", 2),
        ("photo of a dog", 0),
        ("", 6),
    ]);
    let embed = Words::new();
    let found = |q: &[&str], count, threshold| {
        retrieve(&corpus, &queries(q), count, threshold, &CaptionFeatures::new(&embed))
    };
    // 5 is the same picture as 1, and 6 is corrupt
    let all = found(&["photo of a dog"], 10, 0.45).unwrap();
    assert_eq!(indices(&all), [1, 3, 2, 4]);
    assert_eq!((all.above_threshold, all.wanted), (6, 10));
    assert!((all.entries[0].similarity - 1.0).abs() < 1e-6);
    assert!((all.entries[2].similarity - 2.0 / 6f32.sqrt()).abs() < 1e-6);
    assert_eq!(indices(&found(&["photo of a dog"], 2, 0.75).unwrap()), [1, 3]);
    assert_eq!(indices(&found(&["photo of a dog"], 9, 0.8).unwrap()), [1, 3, 2]);
    // the nearest of several queries counts
    let either = found(&["photo of a cat", "a red car"], 9, 0.9).unwrap();
    assert_eq!(indices(&either), [0, 4]);

    let error = found(&["zebra in space"], 5, 0.5).unwrap_err();
    assert!(error.hint().unwrap().contains("nearest is"), "{error}");
    assert!(found(&[], 5, 0.5).is_err());
    assert!(found(&["x"], 0, 0.5).is_err());
    assert!(found(&["x"], 5, f32::NAN).is_err());
}

#[test]
fn captions_are_embedded_once_also_across_runs() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = Listed(vec![("a dog", 1), ("a dog", 2), ("a cat", 3)]);
    let run = |embed: &Words| {
        let queries = queries(&["a dog"]);
        let found =
            retrieve(&corpus, &queries, 5, 0.6, &CaptionFeatures::new(embed).kept_in(dir.path()))
                .unwrap();
        (indices(&found), embed.asked.load(Ordering::Relaxed))
    };
    let fresh = Words::new();
    assert_eq!(run(&fresh), (vec![0, 1], 3), "one query, two different captions");
    assert_eq!(run(&Words::new()), (vec![0, 1], 1), "captions come from the file");
    let other = Words { identity: "other", ..Words::new() };
    assert_eq!(run(&other).1, 3, "another embedder does not use them");

    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(run(&Words::new()), (vec![0, 1], 3), "damaged files are not used");
    assert_eq!(run(&Words::new()), (vec![0, 1], 1), "and are mended");
}

#[test]
fn a_manifest_holds_its_corpus_to_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for (name, color) in [("a", 10), ("b", 20), ("c", 30)] {
        let image = RgbImage::from_pixel(4, 4, image::Rgb([color; 3]));
        image.save(dir.path().join(format!("{name}.png"))).unwrap();
        std::fs::write(dir.path().join(format!("{name}.txt")), format!("a dog {name}")).unwrap();
    }
    let open = || FileCorpus::from_folder(dir.path()).unwrap();
    let made =
        retrieve(&open(), &queries(&["a dog"]), 2, 0.5, &CaptionFeatures::new(&Words::new()))
            .unwrap();
    let file = dir.path().join("deep/manifest.json");
    made.save(&file).unwrap();
    let manifest = Manifest::load(&file).unwrap();
    assert_eq!(manifest, made);
    let pictures = class_pictures(&manifest, &open()).unwrap();
    assert_eq!(pictures.len(), 2);
    assert_eq!(pictures[0].1, "a dog a");
    assert_eq!(pictures[0].0.get_pixel(0, 0).0, [10; 3]);

    // same length, other pixels
    let (a, b) = (dir.path().join("a.png"), dir.path().join("b.png"));
    let corpus = open();
    let bytes = std::fs::read(&b).unwrap();
    assert_eq!(bytes.len(), std::fs::read(&a).unwrap().len());
    std::fs::write(&a, bytes).unwrap();
    let error = class_pictures(&manifest, &corpus).unwrap_err().to_string();
    assert!(error.contains("picture 0"), "{error}");
    std::fs::write(dir.path().join("b.txt"), "a cat").unwrap();
    let error = class_pictures(&manifest, &open()).unwrap_err();
    assert!(error.to_string().contains("corpus") && error.hint().is_some(), "{error}");

    let text = std::fs::read_to_string(&file).unwrap();
    for (from, to) in [
        ("\"similarity\": 0.", "\"similarity\": -0."),
        ("\"queries\"", "\"quaries\""),
        (&made.entries[0].hash[..10], "not hex---"),
        (made.entries[0].hash.as_str(), made.entries[1].hash.as_str()),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        let error = Manifest::load(&file).unwrap_err();
        assert!(error.to_string().contains("manifest.json"), "{error}");
    }
}

#[test]
fn what_was_embedded_before_a_stop_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..5000).map(|i| format!("dog {i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let stop = |done, _| if done < 4096 { Ok(()) } else { Err(Error::Interrupted) };
    let stopped = Words::new();
    let features = CaptionFeatures::new(&stopped).kept_in(dir.path()).watched(&stop);
    assert!(matches!(features.of(&texts), Err(Error::Interrupted)));

    let heard = RefCell::new(vec![]);
    let watch = |done, of| {
        heard.borrow_mut().push((done, of));
        Ok(())
    };
    let again = Words::new();
    let features = CaptionFeatures::new(&again).kept_in(dir.path()).watched(&watch);
    let found = features.of(&texts).unwrap();
    assert_eq!(again.asked.load(Ordering::Relaxed), 5000 - 4096);
    assert_eq!(*heard.borrow(), [(4096, 5000), (5000, 5000)]);
    assert_eq!(found, CaptionFeatures::new(&Words::new()).of(&texts).unwrap());
}

#[test]
fn the_world_has_two_hundred_scenes_for_every_category() {
    let corpus = WorldCorpus::retrieval();
    let dir = tempfile::tempdir().unwrap();
    // captions say more of looks than of what they are looks of
    let embed = Words { category: 6.0, ..Words::new() };
    let found = |query: &str| {
        let features = CaptionFeatures::new(&embed).kept_in(dir.path());
        retrieve(&corpus, &queries(&[query]), 200, 0.6, &features).unwrap()
    };
    for concept in crate::world::concepts() {
        let found = found(&format!("photo of a {}", concept.class()));
        assert_eq!(found.entries.len(), 200, "{}: {}", concept.class(), found.above_threshold);
        let other = found.entries.iter().find(|e| !e.caption.contains(concept.class()));
        assert_eq!(other, None, "{}", concept.class());
    }
    let dogs = found("photo of a dog");
    assert_eq!(class_pictures(&dogs, &corpus).unwrap().len(), 200);
    assert!(class_pictures(&dogs, &WorldCorpus::validation()).is_err());
}
