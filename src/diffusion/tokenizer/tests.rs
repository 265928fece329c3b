use super::*;
use std::time::{Duration, Instant};

/// A CLIP vocabulary in miniature: bytes, bytes at a word's end, three merges, the special tokens.
fn clip_folder(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let letters = ('!'..='~').map(String::from);
    let ends = ('!'..='~').map(|c| format!("{c}</w>"));
    let merged = ["do", "dog</w>", "ph"].map(String::from);
    let special = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
    let all = letters.chain(ends).chain(merged).chain(special);
    let vocab: serde_json::Map<_, _> = all.zip(0..).map(|(t, id)| (t, json!(id))).collect();
    std::fs::write(dir.path().join("vocab.json"), json!(vocab).to_string()).unwrap();
    std::fs::write(dir.path().join("merges.txt"), "#version: 0.2\nd o\ndo g</w>\np h\n").unwrap();
    if !config.is_empty() {
        std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    }
    dir
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(Error::Input { message, .. }) => message,
        Err(other) => panic!("{other:?} is no input error"),
    }
}

#[test]
fn clip_defaults_hold_without_a_configuration() {
    let dir = clip_folder("");
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.max_len(), 77);
    let (start, dog, end) = (191, 189, 192);
    assert_eq!(tokenizer.token_id("dog</w>"), Some(dog));
    assert_eq!(tokenizer.vocab_size(), 193);
    let encoded = tokenizer.encode(" Dog\n\tDOG ").unwrap();
    assert_eq!(encoded.ids[..4], [start, dog, dog, end]);
    assert_eq!(encoded.ids[4..], [end; 73]);
    assert!(!encoded.truncated);
    assert_eq!(tokenizer.encode_words("dog dog").unwrap(), [dog, dog]);
}

#[test]
fn too_long_prompts_lose_their_end_but_not_the_end_token() {
    let dir = clip_folder(r#"{"model_max_length": 6}"#);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let four = tokenizer.encode("dog dog dog dog").unwrap();
    assert_eq!((four.ids.len(), four.truncated), (6, false));
    let five = tokenizer.encode("dog dog dog dog dog").unwrap();
    assert_eq!((five.ids, five.truncated), (four.ids, true));
}

#[test]
fn long_prompts_are_quick() {
    let dir = clip_folder("");
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let spaces = format!("dog{}dog", " ".repeat(60_000));
    let tags = format!("{}dog", "<|endoftext|>".repeat(5_000));
    for prompt in
        ["dog photo ".repeat(5_000), "do".repeat(30_000), "🐶".repeat(15_000), spaces, tags]
    {
        let start = Instant::now();
        assert_eq!(tokenizer.encode(&prompt).unwrap().ids.len(), 77);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}

#[test]
fn absurd_prompts_are_refused() {
    let tokenizer = Tokenizer::load(clip_folder("").path()).unwrap();
    assert!(message(tokenizer.encode(&"a ".repeat(1 << 20))).contains("too long"));
}

#[test]
fn added_tokens_stay_whole() {
    let dir = clip_folder("");
    let mut tokenizer = Tokenizer::load(dir.path()).unwrap();
    let before = tokenizer.encode("a <new1> dog").unwrap();
    assert_eq!(tokenizer.add_token("<new1>").unwrap(), 193);
    assert_eq!(tokenizer.add_token("<new2>").unwrap(), 194);
    assert_eq!(tokenizer.vocab_size(), 195);
    assert_ne!(tokenizer.encode("a <new1> dog").unwrap(), before);
    for text in ["dog<new1>dog", "dog <new1> dog", "dog  <NEW1>dog"] {
        assert_eq!(tokenizer.encode_words(text).unwrap(), [189, 193, 189], "{text}");
    }
    assert_eq!(tokenizer.encode_words("<new2><new1>").unwrap(), [194, 193]);
    // saved and loaded, they are still there
    let copy = tempfile::tempdir().unwrap();
    tokenizer.save(copy.path()).unwrap();
    let again = Tokenizer::load(copy.path()).unwrap();
    assert_eq!(again.vocab_size(), 195);
    assert_eq!(again.encode("a<new1> dog").unwrap(), tokenizer.encode("a<new1> dog").unwrap());
}

#[test]
fn a_token_is_added_once() {
    let dir = clip_folder("");
    let mut tokenizer = Tokenizer::load(dir.path()).unwrap();
    tokenizer.add_token("<new1>").unwrap();
    for token in ["<new1>", "dog</w>", "<|endoftext|>", "", " ", " <new2>"] {
        assert!(!message(tokenizer.add_token(token)).is_empty(), "{token}");
    }
    assert_eq!(tokenizer.vocab_size(), 194);
}

#[test]
fn the_older_layout_has_its_padding_elsewhere() {
    // as SD 2.1 was published: the map overrules the configuration
    let dir = clip_folder(r#"{"pad_token": "<|endoftext|>", "model_max_length": 8}"#);
    std::fs::write(dir.path().join("special_tokens_map.json"), r#"{"pad_token": "!"}"#).unwrap();
    std::fs::write(dir.path().join("added_tokens.json"), r#"{"<b>": 194, "<a>": 193}"#).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.pad_id(), 0);
    assert_eq!((tokenizer.token_id("<a>"), tokenizer.vocab_size()), (Some(193), 195));
    assert_eq!(tokenizer.encode("<a>").unwrap().ids, [191, 193, 192, 0, 0, 0, 0, 0]);
}

#[test]
fn word_level_tokenizers_go_the_same_way() {
    let words = ["a", "dog", "on", "the", "beach", ","];
    let made = Tokenizer::word_level(&words, 8).unwrap();
    let dir = tempfile::tempdir().unwrap();
    made.save(dir.path()).unwrap();
    let mut tokenizer = Tokenizer::load(dir.path()).unwrap();
    for tokenizer in [&made, &tokenizer] {
        assert_eq!((tokenizer.max_len(), tokenizer.vocab_size()), (8, 10));
        let ids = |text| tokenizer.encode(text).unwrap().ids;
        assert_eq!(ids("A dog, on"), [2, 4, 5, 9, 6, 3, 0, 0]);
        assert_eq!(ids("a wolf"), [2, 4, 1, 3, 0, 0, 0, 0]);
        assert_eq!(ids(""), [2, 3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ids("a dog on the beach on the beach"), [2, 4, 5, 6, 7, 8, 6, 3]);
    }
    assert_eq!(tokenizer.add_token("<new1>").unwrap(), 10);
    assert_eq!(tokenizer.encode_words("a <new1> dog").unwrap(), [4, 10, 5]);
}

#[test]
fn words_are_found_in_a_prompt() {
    let mut tokenizer = Tokenizer::word_level(&["a", "wooden", "pot", "dog", ","], 8).unwrap();
    tokenizer.add_token("<new1>").unwrap();
    let find = |prompt, words| tokenizer.positions(prompt, words).unwrap();
    let prompt = "a Pot, a <new1> wooden pot";
    assert_eq!(tokenizer.encode(prompt).unwrap().ids, [2, 4, 6, 8, 4, 9, 5, 3]);
    assert_eq!(find(prompt, "pot"), Some(2..=2), "the first");
    assert_eq!(find(prompt, "<new1> wooden"), Some(5..=6));
    assert_eq!(find(prompt, "wooden pot"), None, "cut off");
    assert_eq!(find("a wooden dog pot", "wooden pot"), None);
    assert_eq!(find("a dog", ""), None);
    assert_eq!(find("", "dog"), None);
    // of several tokens each
    let clip = Tokenizer::load(clip_folder("").path()).unwrap();
    let ids = clip.encode("a photo x").unwrap().ids;
    let found = clip.positions("a photo x", "photo").unwrap().unwrap();
    assert_eq!(found.clone().count(), 4);
    assert_eq!(ids[found], clip.encode_words("photo").unwrap());
}

#[test]
fn word_level_mistakes_are_refused() {
    assert!(message(Tokenizer::word_level(&["a", "a"], 8)).contains("repeated"));
    assert!(message(Tokenizer::word_level(&["a", "<unk>"], 8)).contains("repeated"));
    for length in [0, 2, 5000] {
        assert!(message(Tokenizer::word_level(&["a"], length)).contains("model_max_length"));
    }
}

#[test]
fn missing_and_broken_files_are_named() {
    let empty = tempfile::tempdir().unwrap();
    assert!(message(Tokenizer::load(empty.path())).contains("no tokenizer"));
    assert!(message(Tokenizer::load(&empty.path().join("nowhere"))).contains("nowhere"));

    for (file, text) in [
        ("vocab.json", "{"),
        ("vocab.json", "[]"),
        ("vocab.json", r#"{"a": -1}"#),
        ("vocab.json", r#"{"a": 0}"#),
        ("merges.txt", "a b c\n"),
        ("merges.txt", "x yzzy\n"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "{\"version\": \"1.0\", \"decoder\": "),
        ("tokenizer.json", "\u{0}"),
        ("tokenizer_config.json", "["),
        ("tokenizer_config.json", r#"{"model_max_length": 0}"#),
        ("tokenizer_config.json", r#"{"model_max_length": 2}"#),
        ("tokenizer_config.json", r#"{"model_max_length": "long"}"#),
        ("tokenizer_config.json", r#"{"pad_token": 7}"#),
        ("tokenizer_config.json", r#"{"unk_token": "<nowhere>", "eos_token": "<nowhere>"}"#),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": "<a>"}}"#),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"500": "<a>"}}"#),
        ("special_tokens_map.json", "no"),
        ("added_tokens.json", r#"{"<a>": "1"}"#),
    ] {
        let dir = clip_folder("");
        std::fs::write(dir.path().join(file), text).unwrap();
        let error = message(Tokenizer::load(dir.path()));
        let path = dir.path().display().to_string();
        assert!(error.contains(&path), "{file} {text}: {error}");
    }
    // transformers' "unknown" length is no mistake
    let dir = clip_folder(r#"{"model_max_length": 1000000000000000019884624838656}"#);
    assert_eq!(Tokenizer::load(dir.path()).unwrap().max_len(), 77);
}

#[test]
fn a_token_of_several_vectors_stands_for_as_many_ids() {
    let mut tokenizer = Tokenizer::word_level(&["a", "dog", "on", "beach"], 8).unwrap();
    let first = tokenizer.add_token_of("<new1>", 3).unwrap();
    let [a, dog] = ["a", "dog"].map(|word| tokenizer.token_id(word).unwrap());
    let words = tokenizer.encode_words("a <new1> dog").unwrap();
    assert_eq!(words, [a, first, first + 1, first + 2, dog]);
    assert_eq!(tokenizer.positions("a <new1> dog", "<new1> dog").unwrap(), Some(2..=5));
    let fits = tokenizer.encode("a <new1> dog").unwrap();
    assert_eq!(fits.ids, [2, a, first, first + 1, first + 2, dog, 3, 0]);
    assert!(!fits.truncated && tokenizer.remarks("a <new1> dog").is_empty());
    // the end of the text is kept, as where words are cut off
    let cut = tokenizer.encode("a dog on <new1> beach").unwrap();
    assert_eq!(cut.ids[4..], [first, first + 1, first + 2, 3]);
    assert!(cut.truncated);
    assert!(tokenizer.remarks("a dog on <new1> beach")[0].contains("several vectors"));
    assert_eq!(tokenizer.add_token("<new2>").unwrap(), first + 3);

    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let again = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(again.encode("a <new1> dog").unwrap(), fits);
}
