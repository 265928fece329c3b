//! What people give as an extractor that is none in transformers' layout, told by what is there.

use std::path::Path;

use crate::diffusion::hub::HubId;
use crate::{Error, Result};

/// Refuses a folder that cannot be an extractor in transformers' layout.
///
/// # Errors
/// [`Error::Input`] that says what it is instead, and what to do.
pub(super) fn check(folder: &Path) -> Result<()> {
    let shown = folder.display();
    if !folder.is_dir() {
        let what = if folder.exists() { "this is no folder" } else { "there is no such folder" };
        let message = format!("{shown}: {what}");
        return Err(match hub_id(folder) {
            Some(id) if !folder.exists() => Error::input_hint(
                message,
                format!(
                    "of a hub id fetch the files: `hf download {id} --local-dir clip`, then --clip clip"
                ),
            ),
            _ => Error::input_hint(message, "give a folder in transformers' layout"),
        });
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

/// `owner/name` at the end of a path, which starts where an experiment does.
fn hub_id(path: &Path) -> Option<HubId> {
    let name = path.file_name()?.to_str()?;
    let owner = path.parent()?.file_name()?.to_str()?;
    HubId::parse(&format!("{owner}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_give_is_told_by_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let hint = |path: &Path| check(path).unwrap_err().hint().unwrap().to_owned();
        let id = hint(&at("openai/clip-vit-base-patch32"));
        assert!(id.contains("hf download openai/clip-vit-base-patch32"), "{id}");
        std::fs::write(at("file"), "x").unwrap();
        assert!(hint(&at("file")).contains("folder"));
        assert!(hint(dir.path()).contains("config.json"));
        std::fs::write(at("open_clip_config.json"), "{}").unwrap();
        assert!(hint(dir.path()).contains("open_clip"));
        std::fs::write(at("config.json"), "{}").unwrap();
        check(dir.path()).unwrap();
    }
}
