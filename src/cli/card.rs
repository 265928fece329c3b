//! The model card beside a checkpoint or a backbone: `README.md` in the layout that model hubs read, with what
//! is known of it. The licence is the user's to choose.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::engine::Provenance;
use crate::hub::HubId;
use crate::methods::{Description, Learnt, instance_prompt};
use crate::report::escape;
use crate::{Error, Result, mini, safefile};

/// In the head of every card, for programs: a card without it is somebody's own.
const MARK: &str = "# Written by cdbench.";

/// A backbone's name as a card has it, without the folders of the machine that it was on.
pub fn public_name(name: &str) -> String {
    match name == mini::NAME || HubId::parse(name).is_some_and(|_| !Path::new(name).exists()) {
        true => name.to_owned(),
        false => {
            let last = Path::new(name).file_name();
            last.map_or(name.to_owned(), |last| last.to_string_lossy().into_owned())
        }
    }
}

/// What a checkpoint's folder says of itself, or a store's of it.
pub fn known(folder: &Path) -> Result<Option<Description>> {
    Ok(Description::read(folder)?.or_else(|| in_store(folder)))
}

/// What the store says of a training.
fn in_store(folder: &Path) -> Option<Description> {
    let text = std::fs::read_to_string(folder.join("stage.json")).ok()?;
    let made: Provenance = serde_json::from_str(&text).ok()?;
    made.meaning.get("train")?;
    let mut parts = made.name.strip_prefix("train ")?.split(" · ");
    let (label, names) = (parts.next()?, parts.next()?);
    let concepts = made.meaning.get("concepts")?.as_array()?;
    let settings = made.meaning.get("settings").cloned();
    let modifier = settings.as_ref().and_then(|s| s.get("modifier_token"));
    let modifier = modifier.and_then(|m| serde_json::from_value(m.clone()).ok())?;
    let numbers = made.meaning.get("tokens")?.as_array()?.iter().filter_map(Value::as_u64);
    let learnt = names.split(" + ").zip(concepts).zip(numbers).map(|((name, concept), number)| {
        let category = concept.get("category").and_then(Value::as_str).unwrap_or_default();
        let pictures = concept.get("targets").and_then(Value::as_array).map(Vec::len);
        let learnt = Learnt::called(name, category, modifier, usize::try_from(number).ok()?);
        Some(Learnt { pictures, ..learnt })
    });
    let concepts = learnt.collect::<Option<_>>()?;
    let (backbone, key) = (String::new(), made.key.to_string());
    Some(Description { method: label.to_owned(), concepts, backbone, key, base: None, settings })
}

/// Writes the card of a checkpoint: `README.md` in its folder, or `FILE.md` beside a file. `dialect` is whose
/// files they are, `tokens` what they add. One that is there stays, unless `force` says to replace what this
/// program wrote.
pub fn write_checkpoint(
    checkpoint: &Path,
    said: Option<&Description>,
    tokens: &[&str],
    dialect: &str,
    force: bool,
) -> Result<()> {
    write(&place(checkpoint), &checkpoint_card(said, tokens, dialect), force)
}

/// Writes the card of a backbone that was made a folder in diffusers' layout.
pub fn write_backbone(folder: &Path, name: &str, dtype: &str, force: bool) -> Result<()> {
    let shown = public_name(name);
    let mut text = head(hub_id(&shown), Some("diffusers"), None, &["stable-diffusion"]);
    let _ = write!(
        text,
        "# {0}\n\nThe text-to-image model `{1}` as a folder in diffusers' layout, with weights in {2}.\n\n\
         ```python\nfrom diffusers import StableDiffusionPipeline\n\
         pipeline = StableDiffusionPipeline.from_pretrained(\".\")\n```\n\n{LICENCE}",
        escape(&shown),
        code(&shown),
        code(dtype)
    );
    write(&folder.join("README.md"), &text, force)
}

fn write(path: &Path, text: &str, force: bool) -> Result<()> {
    match std::fs::read_to_string(path) {
        Ok(there) if there == text => Ok(()),
        Ok(there) if force && there.contains(MARK) => safefile::write(path, text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => safefile::write(path, text),
        Err(e) if e.kind() != std::io::ErrorKind::InvalidData => Err(Error::io(path)(e)),
        _ => {
            eprintln!("{}: there already, and left as it is", path.display());
            Ok(())
        }
    }
}

fn place(checkpoint: &Path) -> PathBuf {
    match checkpoint.is_dir() {
        true => checkpoint.join("README.md"),
        false => {
            let mut name = checkpoint.file_name().unwrap_or_default().to_owned();
            name.push(".md");
            checkpoint.with_file_name(name)
        }
    }
}

const LICENCE: &str = "## Licence\n\nNot chosen yet: add `license:` to the head of this file. What may be \
     chosen depends on the licence of the base model and on the rights to the training images.\n";

fn checkpoint_card(said: Option<&Description>, tokens: &[&str], dialect: &str) -> String {
    let base = said.and_then(|s| s.base.as_deref());
    let none = vec![];
    let concepts = said.map_or(&none, |s| &s.concepts);
    let phrases: Vec<String> = concepts.iter().map(|c| c.phrase()).collect();
    let prompt = (!phrases.is_empty()).then(|| instance_prompt(&phrases.join(" and a ")));
    let (library, tag) = match dialect {
        "lora" | "kohya" => (Some("diffusers"), "lora"),
        "textual-inversion" | "a1111" => (Some("diffusers"), "textual_inversion"),
        "diffusers" => (Some("diffusers"), "custom-diffusion"),
        _ => (None, "custom-diffusion"),
    };
    let mut text = head(base.and_then(hub_id), library, prompt.as_deref(), &[tag]);
    let title = match said {
        Some(said) => escape(&said.to_string()),
        None => "A customised text-to-image model".to_owned(),
    };
    let _ = writeln!(text, "# {title}\n");
    if let Some(said) = said {
        let _ = writeln!(text, "- Method: {}", escape(&said.method));
        let _ = match base {
            Some(base) => writeln!(text, "- Base model: {}", escape(base)),
            None => writeln!(text, "- Base model: not known by name"),
        };
        if !said.backbone.is_empty() {
            let _ = writeln!(text, "- Hash of the base model's files: {}", code(&said.backbone));
        }
        let _ = writeln!(text, "- Key of this checkpoint: {}", code(&said.key));
    }
    let _ = writeln!(text, "- Files: {}", escape(dialect));
    if !tokens.is_empty() {
        let tokens: Vec<String> = tokens.iter().map(|token| code(token)).collect();
        let _ = writeln!(text, "- New tokens: {}", tokens.join(", "));
    }
    if !concepts.is_empty() {
        text += "\n## What it has learnt\n\n| concept | category | in prompts | training images |\n|---|---|---|---:|\n";
        for c in concepts {
            let pictures = c.pictures.map_or("not known".to_owned(), |n| n.to_string());
            let cells = [&c.name, &c.category, &c.phrase()].map(|text| escape(text));
            let _ = writeln!(text, "| {} | {pictures} |", cells.join(" | "));
        }
    }
    if let Some(prompt) = &prompt {
        let prompt = line(prompt).replace('\'', r"'\''");
        let _ = write!(
            text,
            "\n## How to use it\n\n```sh\ncdbench sample --checkpoint . --prompt '{prompt}' -o image.png\n```\n"
        );
    }
    if let Some(Value::Object(settings)) = said.and_then(|s| s.settings.as_ref()) {
        text += "\n## Settings\n\n| setting | value |\n|---|---|\n";
        for (key, value) in settings {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(text, "| {} | {} |", escape(key), escape(&value));
        }
    }
    text += "\n## How good it is\n\nNot measured here: `cdbench evaluate` measures samples of it, and the report of \
             an experiment compares it with other methods.\n\n";
    text + LICENCE
}

fn hub_id(name: &str) -> Option<&str> {
    HubId::parse(name).map(|_| name.split_once('@').map_or(name, |(repo, _)| repo))
}

/// The head that hubs read.
fn head(base: Option<&str>, library: Option<&str>, prompt: Option<&str>, tags: &[&str]) -> String {
    let mut text = format!("---\n{MARK} Add `license:` here.\n");
    let named = [("base_model", base), ("library_name", library), ("instance_prompt", prompt)];
    for (key, value) in named {
        if let Some(value) = value {
            let _ = writeln!(text, "{key}: {}", yaml(value));
        }
    }
    text += "pipeline_tag: text-to-image\ntags:\n- text-to-image\n- cdbench\n";
    tags.iter().for_each(|tag| text += &format!("- {tag}\n"));
    text + "---\n\n"
}

/// Text on one line.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A word as code.
fn code(text: &str) -> String {
    // within code no character can be escaped, and a backtick would end it
    format!("`{}`", line(text).replace('`', "'"))
}

/// Text as YAML has it within double quotes.
fn yaml(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str) -> Description {
        Description {
            method: "custom-diffusion".into(),
            concepts: vec![Learnt {
                pictures: Some(5),
                ..Learnt::plain(name, "dog", Some("<new1>"))
            }],
            backbone: "b1".into(),
            key: "k1".into(),
            base: Some("owner/model@main".into()),
            settings: Some(serde_json::json!({ "lr": 1e-5, "train": ["kv|x"] })),
        }
    }

    #[test]
    fn a_card_says_what_is_known() {
        let text = checkpoint_card(Some(&said("rex")), &["<new1>"], "diffusers");
        for wanted in [
            "base_model: \"owner/model\"\n",
            "instance_prompt: \"photo of a <new1> dog\"\n",
            "library_name: \"diffusers\"\n",
            "| rex | dog | \\<new1\\> dog | 5 |\n",
            "| lr | 0.00001 |\n",
            "--prompt 'photo of a <new1> dog'",
            "kv\\|x",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert!(!text.contains("license: "), "{text}");
    }

    #[test]
    fn hostile_names_stay_names() {
        let nasty = "</td>\n---\n| **x** | <script> ``` ' \" \\ \u{85}";
        let mut said = said(nasty);
        said.concepts[0].phrase = Some(nasty.into());
        let text = checkpoint_card(Some(&said), &[nasty], nasty);
        assert!(!text.contains("<script>\n") && !text.contains("\n| **x**"), "{text}");
        let (head, body) = text.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
        assert!(head.lines().all(|line| !line.contains("<script> |")), "{head}");
        assert_eq!(head.lines().filter(|line| line.starts_with("instance_prompt")).count(), 1);
        assert!(!head.contains('\u{85}') && head.contains("\\U0000000a---\\U0000000a"), "{head}");
        // one fence, which nothing within it ends
        assert_eq!(body.lines().filter(|line| line.starts_with("```")).count(), 2);
        let row = body.lines().find(|line| line.starts_with("| \\</td\\>")).unwrap();
        assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{row}");
    }

    #[test]
    fn a_card_of_ones_own_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, own) = (dir.path().join("README.md"), "# Mine\n");
        std::fs::write(&path, own).unwrap();
        write_checkpoint(dir.path(), Some(&said("rex")), &[], "cdbench", true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), own);
        std::fs::remove_file(&path).unwrap();
        write_checkpoint(dir.path(), Some(&said("rex")), &[], "cdbench", false).unwrap();
        write_checkpoint(dir.path(), Some(&said("bello")), &[], "cdbench", false).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("rex"));
        write_checkpoint(dir.path(), Some(&said("bello")), &[], "cdbench", true).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("bello"));
        // beside a file
        let file = dir.path().join("delta.bin");
        std::fs::write(&file, "weights").unwrap();
        write_checkpoint(&file, None, &["<new1>"], "authors", false).unwrap();
        let text = std::fs::read_to_string(dir.path().join("delta.bin.md")).unwrap();
        assert!(text.contains("`<new1>`") && text.contains("authors"), "{text}");
    }
}
