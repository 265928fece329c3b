//! Extractors in transformers' layout: a folder, or a model on the hub; and what people give that is
//! neither, told by what is there.

use std::path::{Path, PathBuf};

use crate::diffusion::config::read_object;
use crate::diffusion::weights::{listed_weights, missing_weights};
use crate::hub::{self, Layout};
use crate::{Error, Result};

/// An extractor on the hub.
const LAYOUT: Layout = Layout { what: "extractor", owner: "transformers", wanted, missing };

/// The name of the weights, without extension.
const STEM: &str = "model";

/// A CLIP's tokenizer: one of these sets of files.
const TOKENIZERS: [&[&str]; 2] = [&["tokenizer.json"], &["vocab.json", "merges.txt"]];

/// What is read where it is there.
const EXTRAS: [&str; 8] = [
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// The folder of what a user gives as an extractor: a path, or a hub id.
///
/// # Errors
/// [`Error::Input`] that says what it is instead and what to do, or what to fetch and where to put it.
pub(super) fn find(given: &str) -> Result<PathBuf> {
    let folder = hub::find(given, &LAYOUT)?.ok_or_else(|| {
        Error::input_hint(
            format!("{given}: there is no such folder"),
            "give a folder in transformers' layout, or a hub id such as openai/clip-vit-base-patch32",
        )
    })?;
    check(&folder)?;
    Ok(folder)
}

fn wanted(listed: &[String]) -> std::result::Result<Vec<String>, String> {
    let has = |file: &str| listed.iter().any(|l| l == file);
    if !has("config.json") {
        return Err("config.json".into());
    }
    let mut wanted = vec!["config.json".to_owned()];
    wanted.extend(EXTRAS.iter().filter(|file| has(file)).map(|file| (*file).to_owned()));
    wanted.extend(listed_weights(listed, "", STEM)?);
    Ok(wanted)
}

fn missing(folder: &Path) -> Vec<String> {
    let has = |file: &str| folder.join(file).is_file();
    if !has("config.json") {
        return vec!["config.json".into()];
    }
    let mut missing = missing_weights(folder, "", STEM);
    let object = read_object(&folder.join("config.json")).unwrap_or_default();
    let reads_texts = object.get("model_type").is_some_and(|kind| kind == "clip");
    if reads_texts && !TOKENIZERS.iter().any(|files| files.iter().all(|file| has(file))) {
        missing.push(TOKENIZERS[0][0].into());
    }
    missing
}

/// Refuses what cannot be an extractor in transformers' layout.
///
/// # Errors
/// [`Error::Input`] that says what it is instead, and what to do.
fn check(folder: &Path) -> Result<()> {
    let shown = folder.display();
    if !folder.is_dir() {
        return Err(Error::input_hint(
            format!("{shown}: this is no folder"),
            "give a folder in transformers' layout; an ONNX file is an extractor of an experiment, see \
             [extractors]",
        ));
    }
    let has = |name: &str| folder.join(name).is_file();
    if has("config.json") {
        return Ok(());
    }
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let open_clip =
        entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("open_clip"));
    let message = format!("{shown}: there is no config.json");
    Err(match open_clip {
        true => Error::input_hint(
            format!("{message}, but files of open_clip"),
            "give the same model in transformers' layout: most of open_clip's repositories on the hub \
             have both",
        ),
        false => Error::input_hint(
            message,
            "it needs config.json, model.safetensors, preprocessor_config.json and, of a CLIP, a \
             tokenizer, as save_pretrained of transformers' models and processors writes them",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_give_is_told_by_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let hint =
            |path: &Path| find(path.to_str().unwrap()).unwrap_err().hint().unwrap().to_owned();
        assert!(hint(&at("nowhere")).contains("openai/clip-vit-base-patch32"));
        std::fs::write(at("file"), "x").unwrap();
        assert!(hint(&at("file")).contains("folder"));
        assert!(hint(dir.path()).contains("config.json"));
        std::fs::write(at("open_clip_config.json"), "{}").unwrap();
        assert!(hint(dir.path()).contains("open_clip"));
        std::fs::write(at("config.json"), "{}").unwrap();
        check(dir.path()).unwrap();
    }

    #[test]
    fn what_is_needed_of_a_model_on_the_hub() {
        let listed = |files: &[&str]| files.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>();
        let files = listed(&["README.md", "config.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(wanted(&files).unwrap(), ["config.json", "tokenizer.json", "model.safetensors"]);
        assert_eq!(wanted(&files[..1]).unwrap_err(), "config.json");
        assert_eq!(wanted(&files[..2]).unwrap_err(), "model.safetensors");

        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(missing(dir.path()), ["config.json"]);
        write("config.json", r#"{"model_type": "clip"}"#);
        assert_eq!(missing(dir.path()), ["model.safetensors", "tokenizer.json"]);
        write("model.safetensors", "");
        write("vocab.json", "");
        write("merges.txt", "");
        assert_eq!(missing(dir.path()), Vec::<String>::new());
    }
}
