//! The shipped model, compiled into the program: the mini backbone (`assets/mini/`, diffusers' layout),
//! the CLIP that judges it and the identity extractor (`clip/` and `dino/` in it, transformers' layout).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::{Error, Result, safefile};

/// What `--backbone` calls it. A folder of this name is `./mini`.
pub const NAME: &str = "mini";

macro_rules! embedded {
    ($($path:literal,)+) => {
        &[$((
            $path,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/mini/", $path)).as_slice(),
        ),)+]
    };
}

/// Paths and contents. The index is last: a folder that has it is complete.
static FILES: &[(&str, &[u8])] = embedded![
    "clip/config.json",
    "clip/model.safetensors",
    "clip/preprocessor_config.json",
    "clip/tokenizer.json",
    "clip/tokenizer_config.json",
    "dino/config.json",
    "dino/model.safetensors",
    "dino/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "model_index.json",
];

/// SHA-256 of the model: names and contents of its files.
pub fn hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let mut digest = Sha256::new();
        for (name, bytes) in FILES {
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name);
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
        format!("{:x}", digest.finalize())
    })
}

/// The backbone's folder. What is in the program is written to the user's cache once
/// (`$CDBENCH_CACHE`, else `cdbench` in `$XDG_CACHE_HOME` or `~/.cache`, else in the folder for
/// temporary files), and read there. Files that are not what they should be are written again.
///
/// # Errors
/// [`Error::Io`] naming what could not be written.
pub fn folder() -> Result<PathBuf> {
    let mut failed = None;
    for cache in caches(|name| std::env::var_os(name).filter(|v| !v.is_empty()).map(Into::into)) {
        let folder = cache.join(format!("mini-{}", &hash()[..16]));
        match write(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) => {
                tracing::warn!("{e}");
                failed = Some(e);
            }
        }
    }
    Err(failed.unwrap_or_else(|| Error::input("there is no folder to cache the mini model in")))
}

/// Where what can be made again is kept, beside the model.
///
/// # Errors
/// As [`folder`].
pub fn cache_folder() -> Result<PathBuf> {
    Ok(folder()?.parent().unwrap_or(Path::new(".")).to_owned())
}

/// The folder of the CLIP that judges, as [`folder`] writes it.
///
/// # Errors
/// As [`folder`].
pub fn clip_folder() -> Result<PathBuf> {
    Ok(folder()?.join("clip"))
}

/// Writes the backbone with its judges into `to`.
///
/// # Errors
/// [`Error::Input`] if `to` is there and not empty, unless `force` allows to write over what is in it;
/// [`Error::Io`].
pub fn export(to: &Path, force: bool) -> Result<()> {
    safefile::check_room(to, force)?;
    write(to)
}

/// Where the model may be cached, best first; a folder that the user named is the only one.
fn caches(var: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(cache) = var("CDBENCH_CACHE") {
        return vec![cache];
    }
    let home = || Some(var("HOME").or_else(|| var("USERPROFILE"))?.join(".cache"));
    // folders for temporary files are everybody's, so the user's name belongs into the folder's
    let user = var("USER").or_else(|| var("USERNAME")).unwrap_or_default();
    let user = user.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = std::env::temp_dir().join(format!("cdbench-{user}"));
    let cache = var("XDG_CACHE_HOME").or_else(home).map(|cache| cache.join("cdbench"));
    cache.into_iter().chain([temporary]).collect()
}

/// Makes `folder` hold the model. Each file appears whole or not at all and only where it is missing
/// or differs, so any number of processes may do this at once.
fn write(folder: &Path) -> Result<()> {
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if !holds(&path, bytes) {
            safefile::write(&path, bytes)?;
        }
    }
    Ok(())
}

/// Whether a file's contents are `bytes`.
fn holds(path: &Path, bytes: &[u8]) -> bool {
    let size = std::fs::metadata(path).map(|file| file.len());
    size.is_ok_and(|size| size == bytes.len() as u64)
        && std::fs::read(path).is_ok_and(|found| found == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn json(path: &str) -> serde_json::Value {
        let (_, bytes) = FILES.iter().find(|(name, _)| *name == path).unwrap();
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn the_model_is_small_whole_and_in_words_that_others_read() {
        let bytes: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes <= 40 << 20, "{bytes} bytes");
        assert_eq!(hash().len(), 64);
        assert_eq!(FILES.last().unwrap().0, "model_index.json");
        // a tokenizer.json of words alone is no `CLIPTokenizer` to transformers
        assert_eq!(json("model_index.json")["tokenizer"][1], "PreTrainedTokenizerFast");
        // without it, CLIPProcessor gives CLIPModel an input it does not know
        let inputs = serde_json::json!(["input_ids", "attention_mask"]);
        assert_eq!(json("clip/tokenizer_config.json")["model_input_names"], inputs);
    }

    #[test]
    fn damage_is_mended_and_nothing_else_touched() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("a/mini");
        export(&to, false).unwrap();
        let unet = to.join("unet/diffusion_pytorch_model.safetensors");
        let untouched = to.join("vae/config.json");
        let written = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        let before = written(&untouched);

        let whole = fs::read(&unet).unwrap();
        let mut spoiled = whole.clone();
        spoiled[whole.len() / 2] ^= 1;
        for damaged in [&spoiled[..], &whole[..100]] {
            fs::write(&unet, damaged).unwrap();
            write(&to).unwrap();
            assert!(fs::read(&unet).unwrap() == whole);
        }
        fs::remove_file(&unet).unwrap();
        write(&to).unwrap();
        assert!(fs::read(&unet).unwrap() == whole);
        assert_eq!(written(&untouched), before);
    }

    #[test]
    fn export_keeps_to_empty_folders() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "x").unwrap();
        assert!(export(dir.path(), false).unwrap_err().hint().unwrap().contains("--force"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        export(dir.path(), true).unwrap();
        assert_eq!(fs::read(dir.path().join("mine")).unwrap(), b"x");
        assert_eq!(export(&dir.path().join("mine"), true).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn many_may_write_at_once() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| write(dir.path()))).collect();
            threads.into_iter().for_each(|t| t.join().unwrap().unwrap());
        });
        let left = FILES.iter().filter(|(name, bytes)| !holds(&dir.path().join(name), bytes));
        assert_eq!(left.count(), 0);
        assert_eq!(fs::read_dir(dir.path().join("clip")).unwrap().count(), 5);
    }

    #[test]
    fn caches_in_their_order() {
        let of = |vars: &[(&str, &str)]| {
            caches(|name| vars.iter().find(|v| v.0 == name).map(|v| PathBuf::from(v.1)))
        };
        let home = ("HOME", "/home/ann");
        assert_eq!(of(&[("CDBENCH_CACHE", "/c"), home]), [Path::new("/c")]);
        assert_eq!(of(&[("XDG_CACHE_HOME", "/x"), home])[0], Path::new("/x/cdbench"));
        assert_eq!(of(&[home])[0], Path::new("/home/ann/.cache/cdbench"));
        let temporary = of(&[("USER", "ann")]);
        assert_eq!(temporary, [std::env::temp_dir().join("cdbench-ann")]);
    }
}
