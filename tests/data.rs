//! Data as an experiment uses them: a folder of pictures becomes a concept, a captioned folder gives its
//! regularisation images, and a later run gets the same.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use cdbench::Result;
use cdbench::clip::Embed;
use cdbench::data::{
    CaptionFeatures, ConceptSource, FolderSource, Manifest, OnCorrupt, PromptSource,
    class_pictures, corpus, retrieve,
};
use cdbench::world::{Split, WorldConfig, concepts};
use image::RgbImage;
use ndarray::Array2;

/// Tells texts apart by the letters in them.
struct Letters;

impl Embed for Letters {
    fn images(&self, images: &[&RgbImage]) -> Result<Array2<f32>> {
        Ok(Array2::zeros((images.len(), 26)))
    }

    fn texts(&self, texts: &[&str]) -> Result<Array2<f32>> {
        let mut out = Array2::zeros((texts.len(), 26));
        for (mut row, text) in out.rows_mut().into_iter().zip(texts) {
            for letter in text.bytes().filter(u8::is_ascii_lowercase) {
                row[(letter - b'a') as usize] += 1.0;
            }
        }
        Ok(out)
    }

    fn identity(&self) -> &str {
        "letters"
    }
}

fn save(image: &[u8], path: &Path) {
    RgbImage::from_raw(64, 64, image.to_vec()).unwrap().save(path).unwrap();
}

#[test]
fn a_folder_of_pictures_is_learnt_as_a_concept_of_the_world_is() {
    let dir = tempfile::tempdir().unwrap();
    let concept = &concepts()[0];
    for (i, scene) in concept.targets().iter().enumerate() {
        save(&scene.image, &dir.path().join(format!("{i:02}.png")));
    }
    let file = dir.path().join("prompts.txt");
    fs::write(&file, "# evaluation\n{} in the snow\na <new1> dog at night\n").unwrap();
    let mut source = FolderSource {
        path: dir.path().into(),
        category: "dog".into(),
        name: "rex".into(),
        prompts: Some(PromptSource::File(file)),
        on_corrupt: OnCorrupt::Refuse,
    };
    let load = |source: &FolderSource| ConceptSource::Folder(source.clone()).load();
    let (rex, world) =
        (load(&source).unwrap(), ConceptSource::World(concept.name.into()).load().unwrap());
    assert_eq!(rex.targets, world.targets, "pictures, names and hashes");
    let filled: Vec<String> = rex.prompts.iter().map(|p| p.fill(&["<new1> dog"])).collect();
    assert_eq!(filled, ["<new1> dog in the snow", "a <new1> dog at night"]);
    assert_eq!(rex.prompts[1].fill(&["dog"]), "a dog at night", "as CLIP sees it");

    fs::write(dir.path().join("99.jpg"), b"\xff\xd8\xff\xe0 a picture that broke").unwrap();
    let error = load(&source).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("rex") && text.contains("99.jpg"), "{text}");
    assert_eq!(error.exit_code(), 3);
    source.on_corrupt = OnCorrupt::Skip;
    assert_eq!(load(&source).unwrap().targets.len(), rex.targets.len());
}

#[test]
fn regularisation_images_are_chosen_once() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("corpus");
    fs::create_dir(&folder).unwrap();
    for i in 0..60 {
        let scene = Split::Corpus.scene(&WorldConfig::default(), 5, i);
        save(&scene.image, &folder.join(format!("{i:03}.png")));
        fs::write(folder.join(format!("{i:03}.txt")), &scene.caption).unwrap();
    }
    let open = || corpus(folder.to_str().unwrap()).unwrap();
    let queries = ["photo of a dog".to_owned()];
    let cache = dir.path().join("cache");
    let features = CaptionFeatures::new(&Letters).kept_in(&cache);
    let choose = || retrieve(&*open(), &queries, 12, 0.4, &features).unwrap();
    let manifest = choose();
    assert_eq!(manifest, choose(), "again, from the cache");
    let similarity: Vec<f32> = manifest.entries.iter().map(|e| e.similarity).collect();
    assert!(similarity.is_sorted_by(|a, b| a >= b) && similarity[11] >= 0.4);
    let hashes: HashSet<_> = manifest.entries.iter().map(|e| &e.hash).collect();
    assert_eq!(hashes.len(), 12);

    let file = dir.path().join("manifest.json");
    manifest.save(&file).unwrap();
    let pictures = class_pictures(&Manifest::load(&file).unwrap(), &*open()).unwrap();
    for ((image, caption), entry) in pictures.iter().zip(&manifest.entries) {
        assert_eq!(*caption, entry.caption);
        assert_eq!(image, &open().picture(entry.index).unwrap());
    }
    fs::remove_file(folder.join("000.png")).unwrap();
    let error = class_pictures(&manifest, &*open()).unwrap_err();
    assert!(error.to_string().contains("corpus"), "{error}");
}
