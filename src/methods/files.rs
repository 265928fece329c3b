//! Deltas on disk, as diffusers and the authors' code name things.
//!
//! | file | holds |
//! |---|---|
//! | `pytorch_custom_diffusion_weights.safetensors` | keys and values of cross attention, if no other weight of the UNet changed: `….attn2.processor.to_k_custom_diffusion.weight`; `unet.load_attn_procs` reads it (diffusers 0.35 uses what it read only if called with `_pipeline=pipe`) |
//! | `unet.safetensors` | otherwise the changed weights of the UNet, under diffusers' names |
//! | `text_encoder.safetensors`, `vae.safetensors` | those of the other models |
//! | `compressed.safetensors` | the factors of changes of matrices, `unet.….to_k.weight.u` [out, r] and `….v` [r, in], whose product is added to the backbone's, as in the authors' compressed deltas |
//! | `<new1>.safetensors` | a modifier token, `{"<new1>": [1, features]}`; `load_textual_inversion` reads it |
//!
//! Textual Inversions of others are read, too: a file whose key names no token (kohya's `emb_params`,
//! A1111's `string_to_param`) is the token of its own name.
//!
//! All of it f32, and absolute but for the factors. Pickled files are not read: they can run code. Those of an
//! optimiser and its like, which trainers leave beside weights, are passed over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::{Delta, Factors};
use crate::data::is_clutter;
use crate::diffusion::weights::{Weights, save_weights};
use crate::{Error, Result};

const KEYS_AND_VALUES: &str = "pytorch_custom_diffusion_weights";
const COMPRESSED: &str = "compressed";
const MODELS: [&str; 3] = ["unet", "text_encoder", "vae"];
const PICKLED: [&str; 5] = ["bin", "pt", "pth", "ckpt", "pkl"];
/// How names of files start that hold a training's state and no weights.
const STATES: [&str; 8] = [
    "optimizer",
    "scheduler",
    "scaler",
    "sampler",
    "random_states",
    "rng_state",
    "training_args",
    "dataloader",
];

impl Delta {
    /// Writes the change into a folder, which is made if need be, and returns how many bytes it takes
    /// there.
    ///
    /// # Errors
    /// [`Error::Input`] if weights of another checkpoint are there; [`Error::Io`] naming the file.
    pub fn save(&self, dir: &Path) -> Result<u64> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let mut files = vec![];
        let mut write = |stem: &str, tensors: Vec<(String, Tensor)>| {
            files.push((dir.join(format!("{stem}.safetensors")), tensors));
        };
        for model in MODELS {
            let own: Vec<(String, Tensor)> = self
                .tensors
                .iter()
                .filter_map(|(name, t)| {
                    let name = name.strip_prefix(model)?.strip_prefix('.')?;
                    Some((name.to_owned(), t.clone()))
                })
                .collect();
            if own.is_empty() {
                continue;
            }
            let narrow = own.iter().all(|(name, _)| processor_name(name).is_some());
            if model == "unet" && narrow {
                write(KEYS_AND_VALUES, processors(own)?);
            } else {
                write(model, own);
            }
        }
        if !self.factors.is_empty() {
            let both = self.factors.iter().flat_map(|(name, f)| {
                [(format!("{name}.u"), f.u.clone()), (format!("{name}.v"), f.v.clone())]
            });
            write(COMPRESSED, both.collect());
        }
        for (token, row) in &self.tokens {
            if token.contains(['/', '\\', ':']) {
                return Err(Error::input(format!("the token `{token}` cannot be a file's name")));
            }
            write(token, vec![(token.clone(), row.clone())]);
        }
        refuse_other_weights(dir, files.iter().map(|(path, _)| path.as_path()))?;
        let mut bytes = 0;
        for (path, tensors) in files {
            save_weights(&path, tensors.into_iter().map(|(name, t)| (name, t, DType::F32)))?;
            bytes += fs::metadata(&path).map_err(Error::io(&path))?.len();
        }
        Ok(bytes)
    }

    /// Reads what [`Delta::save`], diffusers' Custom Diffusion script or a Textual Inversion wrote: a
    /// folder, or one file.
    ///
    /// # Errors
    /// [`Error::Input`] if there is nothing to read, a file is damaged or holds what it should not, a
    /// number is not finite, or it is pickled.
    pub fn load(path: &Path) -> Result<Delta> {
        let mut delta = Delta::default();
        let files = files(path)?;
        for file in &files {
            let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            let weights = Weights::open_file(file)?;
            if stem == COMPRESSED {
                delta.factors = factors(file, &weights)?;
                continue;
            }
            for key in weights.keys() {
                let shape = weights.shape(key).unwrap_or_default();
                if shape.contains(&0) || key.starts_with("string_to_token") {
                    continue;
                }
                if ["clip_l", "clip_g"].contains(&key) {
                    return Err(Error::input_hint(
                        format!("{}: `{key}` is a token of Stable Diffusion XL", file.display()),
                        "this program knows Stable Diffusion 1.x and 2.x",
                    ));
                }
                let tensor = weights.tensor(key, &shape)?;
                if MODELS.contains(&stem) {
                    delta.tensors.insert(format!("{stem}.{key}"), tensor);
                } else if let Some(name) = parameter_name(key) {
                    delta.tensors.insert(format!("unet.{name}"), tensor);
                } else {
                    let token = if names_no_token(key) { stem } else { key };
                    delta.tokens.push((token.to_owned(), row(file, key, tensor)?));
                }
            }
        }
        delta.tokens.sort_by_key(|(token, _)| (number(token), token.clone()));
        if let Some(pair) = delta.tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let twice = &pair[0].0;
            return Err(Error::input(format!("{}: two files hold `{twice}`", path.display())));
        }
        Ok(delta)
    }
}

/// Refuses a folder with weights that are none of `files`: all weights of a folder are read as one
/// checkpoint.
///
/// # Errors
/// [`Error::Input`] naming one of them; [`Error::Io`].
pub fn refuse_other_weights<'a>(dir: &Path, files: impl Iterator<Item = &'a Path>) -> Result<()> {
    let files: Vec<&Path> = files.collect();
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let path = entry.path();
        let clutter = is_clutter(&entry.file_name().to_string_lossy());
        let weights = path.extension().is_some_and(|e| e == "safetensors") && !clutter;
        if weights && !files.contains(&path.as_path()) {
            return Err(Error::input_hint(
                format!(
                    "{}: of another checkpoint, and would be read with this one",
                    path.display()
                ),
                "delete it, or name another folder",
            ));
        }
    }
    Ok(())
}

/// The safetensors files of a folder, sorted; or the one file.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let extension = |p: &Path| p.extension().and_then(|e| e.to_str()).unwrap_or("").to_owned();
    let pickle = |p: &Path| PICKLED.contains(&extension(p).as_str());
    let mut found = if path.is_file() {
        vec![path.to_owned()]
    } else {
        let entries = fs::read_dir(path).map_err(Error::io(path))?;
        entries.map(|e| Ok(e.map_err(Error::io(path))?.path())).collect::<Result<Vec<PathBuf>>>()?
    };
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let state = |p: &Path| STATES.iter().any(|state| name(p).starts_with(state));
    if !path.is_file() {
        found.retain(|p| !is_clutter(&name(p)) && !state(p));
    }
    found.sort();
    // diffusers writes pickles, too, for some who ask
    if let Some(pickled) =
        found.iter().find(|p| pickle(p) && !p.with_extension("safetensors").is_file())
    {
        return Err(Error::input_hint(
            format!("{}: a pickled file, which can run code when it is read", pickled.display()),
            "convert it: in Python, load it with torch.load(file, weights_only=True); of the authors' \
             delta.bin save `unet` as unet.safetensors and each modifier token as <new1>.safetensors, \
             with safetensors.torch.save_file",
        ));
    }
    found.retain(|p| extension(p) == "safetensors" && p.is_file());
    match found.is_empty() {
        true => Err(Error::input_hint(
            format!("{}: no weights and no tokens are here", path.display()),
            format!(
                "a checkpoint holds {KEYS_AND_VALUES}.safetensors or unet.safetensors, and <new1>.safetensors"
            ),
        )),
        false => Ok(found),
    }
}

/// Keys and values as diffusers has them. An entry of no numbers stands for each self attention, which
/// keeps its weights: `load_attn_procs` wants to hear of every attention.
fn processors(own: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
    let mut all = vec![];
    for (name, tensor) in own {
        let name = processor_name(&name).expect("checked");
        if name.ends_with("to_k_custom_diffusion.weight") {
            let own = name.split(".processor.").next().unwrap_or_default();
            let other = format!("{}.processor", own.replace("attn2", "attn1"));
            all.push((other, Tensor::zeros(0, DType::F32, &Device::Cpu)?));
        }
        all.push((name, tensor));
    }
    Ok(all)
}

/// `….attn2.to_k.weight` as diffusers' Custom Diffusion calls it.
fn processor_name(name: &str) -> Option<String> {
    ["to_k", "to_v"].into_iter().find_map(|which| {
        let layer = name.strip_suffix(&format!(".attn2.{which}.weight"))?;
        Some(format!("{layer}.attn2.processor.{which}_custom_diffusion.weight"))
    })
}

/// The UNet's name of what diffusers' Custom Diffusion calls `key`; queries and outputs, which its
/// `freeze_model = crossattn` trains, too.
fn parameter_name(key: &str) -> Option<String> {
    let (layer, rest) = key.split_once(".processor.")?;
    rest.contains("_custom_diffusion")
        .then(|| format!("{layer}.{}", rest.replace("_custom_diffusion", "")))
}

/// Whether a key of a Textual Inversion stands for the token, and is not it.
fn names_no_token(key: &str) -> bool {
    matches!(key, "emb_params" | "*") || key.starts_with("string_to_param")
}

/// A token's embedding as [1, features].
fn row(file: &Path, key: &str, tensor: Tensor) -> Result<Tensor> {
    match tensor.dims() {
        [width] => Ok(tensor.reshape((1, *width))?),
        [1, _] => Ok(tensor),
        [vectors, _] if names_no_token(key) || key.starts_with('<') => Err(Error::input_hint(
            format!("{}: a token of {vectors} vectors", file.display()),
            "tokens of one vector are read: train it with one",
        )),
        shape => Err(Error::input(format!(
            "{}: `{key}` of shape {shape:?} is neither a weight of a known file nor the embedding of one token",
            file.display()
        ))),
    }
}

/// What a compressed file holds.
fn factors(file: &Path, weights: &Weights) -> Result<BTreeMap<String, Factors>> {
    let bad = |what: String| Error::input(format!("{}: {what}", file.display()));
    let mut found = BTreeMap::new();
    for key in weights.keys() {
        let (name, which) = key.rsplit_once('.').unwrap_or((key, ""));
        match which {
            "u" => {}
            "v" if weights.shape(&format!("{name}.u")).is_some() => continue,
            _ => return Err(bad(format!("`{key}` is no factor `….u` or `….v` of a pair"))),
        }
        let of = |which: &str| -> Result<Tensor> {
            let key = format!("{name}.{which}");
            let shape = weights.shape(&key);
            let shape = shape.ok_or_else(|| bad(format!("`{key}` is missing")))?;
            weights.tensor(&key, &shape)
        };
        let (u, v) = (of("u")?, of("v")?);
        match (u.dims(), v.dims()) {
            ([_, a], [b, _]) if a == b => {}
            (u, v) => return Err(bad(format!("`{name}`: factors of shapes {u:?} and {v:?}"))),
        }
        found.insert(name.to_owned(), Factors { u, v });
    }
    Ok(found)
}

/// The number in `<new7>`; tokens of other names come last.
fn number(token: &str) -> u64 {
    let digits = token.strip_prefix("<new").and_then(|t| t.strip_suffix('>'));
    digits.and_then(|d| d.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = "mid_block.attentions.0.transformer_blocks.0";

    #[test]
    fn names_are_those_of_diffusers() {
        for which in ["to_k", "to_v"] {
            let own = format!("{LAYER}.attn2.{which}.weight");
            let theirs = format!("{LAYER}.attn2.processor.{which}_custom_diffusion.weight");
            assert_eq!(processor_name(&own).as_ref(), Some(&theirs));
            assert_eq!(parameter_name(&theirs), Some(own));
        }
        assert_eq!(processor_name(&format!("{LAYER}.attn1.to_k.weight")), None);
        // freeze_model = crossattn
        let out = format!("{LAYER}.attn2.processor.to_out_custom_diffusion.0.bias");
        assert_eq!(parameter_name(&out), Some(format!("{LAYER}.attn2.to_out.0.bias")));
    }

    #[test]
    fn textual_inversions_of_others_are_called_after_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, key: &str, rows: usize| {
            let row = Tensor::ones((rows, 2), DType::F32, &Device::Cpu).unwrap();
            let path = dir.path().join(name);
            save_weights(&path, [(key.to_owned(), row, DType::F32)]).unwrap();
            path
        };
        write("my-cat.safetensors", "emb_params", 1);
        write("猫.safetensors", "string_to_param.*", 1);
        write("learned_embeds.safetensors", "<dog-toy>", 1);
        write("<new1>.safetensors", "<new1>", 1);
        // what trainers and systems leave beside them
        for name in ["optimizer.bin", "random_states_0.pkl", "scheduler.bin", "._a.safetensors"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let delta = Delta::load(dir.path()).unwrap();
        let names: Vec<&str> = delta.tokens().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["<new1>", "<dog-toy>", "my-cat", "猫"]);
        let alone = Delta::load(&dir.path().join("my-cat.safetensors")).unwrap();
        assert_eq!(alone.tokens()[0].0, "my-cat");

        let error = Delta::load(&write("four.safetensors", "emb_params", 4)).unwrap_err();
        assert!(error.to_string().contains("4 vectors"), "{error}");
        let error = Delta::load(&write("xl.safetensors", "clip_g", 1)).unwrap_err();
        assert!(error.to_string().contains("XL"), "{error}");
        fs::write(dir.path().join("delta.bin"), "x").unwrap();
        assert!(Delta::load(dir.path()).unwrap_err().to_string().contains("delta.bin"));
    }

    #[test]
    fn self_attention_has_an_entry_and_no_weights() {
        let dir = tempfile::tempdir().unwrap();
        let weight = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
        let names = ["to_k", "to_v"].map(|w| format!("unet.{LAYER}.attn2.{w}.weight"));
        let delta = Delta::new(names.map(|name| (name, weight.clone())).into(), vec![]);
        delta.save(dir.path()).unwrap();
        let file = dir.path().join(format!("{KEYS_AND_VALUES}.safetensors"));
        let weights = Weights::open_file(&file).unwrap();
        let keys: Vec<&str> = weights.keys().collect();
        assert_eq!(keys[0], format!("{LAYER}.attn1.processor"));
        assert_eq!((keys.len(), weights.shape(keys[0])), (3, Some(vec![0])));
        assert_eq!(Delta::load(dir.path()).unwrap().hash().unwrap(), delta.hash().unwrap());
    }
}
