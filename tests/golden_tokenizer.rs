//! Token ids against transformers: `tests/golden/README.md` says how they were made.

use std::path::{Path, PathBuf};

use cdbench::diffusion::tokenizer::{ClipPadding, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    max_length: usize,
    pad_id: u32,
    added: std::collections::BTreeMap<String, u32>,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    prompt: String,
    /// Without the padding.
    ids: Vec<u32>,
}

fn golden(name: &str) -> (PathBuf, Golden) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let text = std::fs::read_to_string(dir.join(format!("{name}_tokens.json"))).unwrap();
    (dir.join(name).join("tokenizer"), serde_json::from_str(&text).unwrap())
}

fn compare(dir: &Path, golden: &Golden) {
    compare_with(Tokenizer::load(dir).unwrap(), golden);
}

fn compare_with(mut tokenizer: Tokenizer, golden: &Golden) {
    assert_eq!(tokenizer.max_len(), golden.max_length);
    assert_eq!(tokenizer.pad_id(), golden.pad_id);
    for (token, id) in &golden.added {
        assert_eq!(tokenizer.add_token(token).unwrap(), *id);
    }
    for Prompt { prompt, ids } in &golden.prompts {
        let mut want = ids.clone();
        want.resize(golden.max_length, golden.pad_id);
        assert_eq!(tokenizer.encode(prompt).unwrap().ids, want, "{prompt:?}");
    }
}

#[test]
fn ids_are_those_of_transformers() {
    for name in ["sd1", "sd2"] {
        let (dir, golden) = golden(name);
        compare(&dir, &golden);
    }
}

#[test]
fn tokenizer_json_and_its_parts_give_the_same_ids() {
    let (dir, golden) = golden("sd1");
    assert!(dir.join("tokenizer.json").is_file());
    let parts = tempfile::tempdir().unwrap();
    for file in ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::copy(dir.join(file), parts.path().join(file)).unwrap();
    }
    compare(parts.path(), &golden);
}

#[test]
fn a_saved_tokenizer_gives_the_same_ids() {
    for name in ["sd1", "sd2"] {
        let (dir, golden) = golden(name);
        let copy = tempfile::tempdir().unwrap();
        Tokenizer::load(&dir).unwrap().save(copy.path()).unwrap();
        compare(copy.path(), &golden);
    }
}

#[test]
fn the_compiled_in_vocabulary_gives_the_ids_of_transformers() {
    for (name, padding) in [("clip1", ClipPadding::End), ("clip2", ClipPadding::ExclamationMark)] {
        let (_, golden) = golden(name);
        let tokenizer = Tokenizer::clip(padding).unwrap();
        assert_eq!(tokenizer.vocab_size(), 49408);
        assert_eq!(tokenizer.token_id("<|startoftext|>"), Some(49406));
        assert_eq!(tokenizer.token_id("<|endoftext|>"), Some(49407));
        let copy = tempfile::tempdir().unwrap();
        tokenizer.save(copy.path()).unwrap();
        compare_with(tokenizer, &golden);
        // as this program reads it again, and as transformers' slow tokenizer has it
        compare(copy.path(), &golden);
        std::fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
        compare(copy.path(), &golden);
    }
}
