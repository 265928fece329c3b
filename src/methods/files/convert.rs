//! From one dialect to another: which changes each of them has a place for, and what makes a change fit.

use std::path::{Path, PathBuf};

use super::{Delta, PICKLED, SAFETENSORS, Written, extension};
use super::{authors, compvis, diffusers, lora, lora_diffusers, lora_kohya, textual_inversion};
use crate::diffusion::Backbone;
use crate::error::nearest;
use crate::methods::compress::{Compression, factorise};
use crate::{Error, Result};

/// A dialect that is written.
pub struct Target {
    /// As `--to` has it.
    pub name: &'static str,
    /// What it is, and who reads it.
    pub about: &'static str,
    /// Of its files; a folder of several kinds has none.
    extension: Option<&'static str>,
    /// Whether it has a place for an absolute weight.
    weight: fn(&str) -> bool,
    /// Whether it has a place for factors of what is added to a weight.
    factors: fn(&str) -> bool,
    tokens: Tokens,
    write: fn(&Delta) -> Result<Vec<Written>>,
}

/// Where a dialect has tokens.
enum Tokens {
    /// In its own file, if they are so called and of so many vectors.
    Inside(fn(&str, usize) -> bool),
    /// In files of their own beside it.
    Beside,
}

/// All of them.
pub fn targets() -> &'static [Target] {
    &TARGETS
}

static TARGETS: [Target; 9] = [
    Target {
        name: "cdbench",
        about: "our own folder, which has a place for everything",
        extension: None,
        weight: |_| true,
        factors: |_| true,
        tokens: Tokens::Inside(|_, _| true),
        write: diffusers::own_folder,
    },
    Target {
        name: "diffusers",
        about: "Custom Diffusion of diffusers: load_attn_procs, load_textual_inversion",
        extension: Some(SAFETENSORS),
        weight: diffusers::takes,
        factors: |_| false,
        tokens: Tokens::Beside,
        write: diffusers::write,
    },
    Target {
        name: "authors",
        about: "delta.bin of the authors' code on diffusers",
        extension: Some("bin"),
        weight: authors::takes,
        factors: |_| false,
        tokens: Tokens::Inside(|_, vectors| vectors == 1),
        write: authors::write,
    },
    Target {
        name: "authors-compressed",
        about: "the same with keys and values as factors (--rank, --share)",
        extension: Some("bin"),
        weight: |name| authors::takes(name) && !authors::takes_factors(name),
        factors: authors::takes_factors,
        tokens: Tokens::Inside(|_, vectors| vectors == 1),
        write: authors::write,
    },
    Target {
        name: "compvis",
        about: "delta.ckpt of the authors' code on CompVis's",
        extension: Some("ckpt"),
        weight: compvis::takes,
        factors: |_| false,
        tokens: Tokens::Inside(|name, vectors| vectors == 1 && compvis::takes_token(name)),
        write: compvis::write,
    },
    Target {
        name: "lora",
        about: "a LoRA of diffusers (--rank, --share): load_lora_weights",
        extension: Some(SAFETENSORS),
        weight: |_| false,
        factors: lora::takes,
        tokens: Tokens::Beside,
        write: lora_diffusers::write,
    },
    Target {
        name: "kohya",
        about: "a LoRA in kohya's names (--rank, --share): A1111, ComfyUI, diffusers",
        extension: Some(SAFETENSORS),
        weight: |_| false,
        factors: lora::takes,
        tokens: Tokens::Beside,
        write: lora_kohya::write,
    },
    Target {
        name: "textual-inversion",
        about: "tokens alone, a file each: load_textual_inversion",
        extension: Some(SAFETENSORS),
        weight: |_| false,
        factors: |_| false,
        tokens: Tokens::Inside(|_, _| true),
        write: textual_inversion::files,
    },
    Target {
        name: "a1111",
        about: "tokens alone, as A1111's embeddings/NAME.pt",
        extension: Some("pt"),
        weight: |_| false,
        factors: |_| false,
        tokens: Tokens::Inside(|_, _| true),
        write: textual_inversion::a1111_files,
    },
];

impl std::str::FromStr for &'static Target {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = TARGETS.iter().find(|target| target.name == name);
        found.ok_or_else(|| nearest(name, TARGETS.iter().map(|target| target.name)))
    }
}

impl Target {
    /// The changes of a checkpoint that the dialect has no place for, in whatever form.
    fn without_place(&self, delta: &Delta) -> Vec<String> {
        let weights = delta.changed().filter(|name| !(self.weight)(name) && !(self.factors)(name));
        let tokens = delta.tokens().iter().filter(|(name, rows)| match self.tokens {
            Tokens::Inside(takes) => !takes(name, rows.dims()[0]),
            Tokens::Beside => false,
        });
        weights.cloned().chain(tokens.map(|(name, _)| name.clone())).collect()
    }
}

/// A checkpoint in another dialect.
pub struct Conversion {
    files: Vec<Written>,
    extension: Option<&'static str>,
    /// How much of changes that had to become factors is left: the share of the sum of their squares. None
    /// if none had to.
    pub kept: Option<f64>,
}

/// Puts a checkpoint into another dialect. `backbone`, untouched, is needed where absolute weights are to
/// become factors or the other way round, `to` says of which rank factors are.
///
/// # Errors
/// [`Error::Input`] for changes that the dialect has no place for, with the dialects that do; if a backbone
/// or a rank is needed and not given; for a checkpoint of another backbone.
pub fn convert(
    delta: &Delta,
    target: &Target,
    backbone: Option<&Backbone>,
    to: Option<Compression>,
) -> Result<Conversion> {
    refuse_without_place(delta, target)?;
    let needed = |what: &str, hint: &str| {
        Err(Error::input_hint(format!("--to {}: {what}", target.name), hint.to_owned()))
    };
    // factors that are to be absolute, and what is to be factors
    let (factors, whole) =
        delta.factors.clone().into_iter().partition(|(name, _)| (target.factors)(name));
    let (tensors, change) =
        delta.tensors.clone().into_iter().partition(|(name, _)| (target.weight)(name));
    let mut made = Delta::new(tensors, delta.tokens.clone()).with_factors(factors);
    let (whole, change) = (Delta::default().with_factors(whole), Delta::new(change, vec![]));
    let mut kept = None;
    if !whole.is_empty() {
        let Some(backbone) = backbone else {
            return needed(
                "the checkpoint says what is added to weights, and weights as they become are wanted",
                "give the backbone that it is added to: --backbone",
            );
        };
        made.tensors.extend(whole.whole(backbone)?.tensors);
    }
    if !change.is_empty() {
        let (Some(backbone), Some(to)) = (backbone, to) else {
            return needed(
                "the checkpoint says what weights become, and factors of what is added are wanted",
                "give the backbone that it was trained on, and how much of each change is kept: --backbone, \
                 and --rank or --share",
            );
        };
        let (change, share) = factorise(&change, backbone, to)?;
        kept = Some(share);
        made.factors.extend(change.factors);
        // a vector has no factors
        if let Some(name) = change.tensors.keys().next() {
            return needed(
                &format!("`{name}` is a vector, of which there are no factors"),
                "--to cdbench or --to authors has a place for it",
            );
        }
    }
    let mut files = (target.write)(&made)?;
    if matches!(target.tokens, Tokens::Beside) {
        files.extend(textual_inversion::files(&made)?);
    }
    if files.is_empty() {
        return Err(Error::input(format!("--to {}: nothing changed that it holds", target.name)));
    }
    Ok(Conversion { files, extension: target.extension, kept })
}

fn refuse_without_place(delta: &Delta, target: &Target) -> Result<()> {
    let without = target.without_place(delta);
    let Some(first) = without.first() else { return Ok(()) };
    let more = match without.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let others = TARGETS.iter().filter(|t| t.without_place(delta).is_empty());
    let others: Vec<&str> = others.map(|t| t.name).collect();
    Err(Error::input_hint(
        format!("--to {} has no place for `{first}`{more}", target.name),
        format!("these have a place for all of the checkpoint: {}", others.join(", ")),
    ))
}

impl Conversion {
    /// Where its files go: `out` itself if that is called as a file of the dialect is, or a folder's.
    ///
    /// # Errors
    /// [`Error::Input`] for a file where several are to be written, or one of another kind.
    pub fn paths(&self, out: &Path) -> Result<Vec<PathBuf>> {
        let wanted = |what: String, hint: &str| {
            Err(Error::input_hint(format!("{}: {what}", out.display()), hint))
        };
        let named = extension(out);
        let a_file = named == SAFETENSORS || PICKLED.contains(&named);
        if !a_file || out.is_dir() {
            return Ok(self.files.iter().map(|file| out.join(&file.name)).collect());
        }
        match (self.extension, &self.files[..]) {
            (Some(own), [_]) if own == named => Ok(vec![out.to_owned()]),
            (Some(own), [_]) => wanted(
                format!("this dialect's files end in .{own}"),
                "name such a file, or a folder",
            ),
            _ => {
                let names: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
                wanted(
                    format!("a folder's files are to be written: {}", names.join(", ")),
                    "name a folder: its files are read as one checkpoint",
                )
            }
        }
    }

    /// Writes the files to these paths.
    ///
    /// # Errors
    /// [`Error::Io`] naming one of them.
    pub fn save(&self, paths: &[PathBuf]) -> Result<()> {
        self.files.iter().zip(paths).try_for_each(|(file, path)| file.save(path).map(|_| ()))
    }
}
