//! The forms in which a model's weights lie in its folder.

use std::path::Path;

use crate::diffusion::config::read_object;

/// Variants beside the weights without one, best first.
const VARIANTS: [&str; 3] = ["fp16", "bf16", "non_ema"];

/// One file, or the index of several.
pub(in crate::diffusion) struct Form {
    /// Its name.
    pub file: String,
    /// Whether it is an index.
    pub sharded: bool,
    /// Which variant it is; empty for none.
    pub variant: &'static str,
}

/// The forms of the weights called `stem` that are read, best first, pickles last. Of indices of variants
/// transformers, diffusers and older diffusers each have their own name.
pub(in crate::diffusion) fn forms(stem: &str) -> Vec<Form> {
    let index = |name: String, variant| Form { file: name, sharded: true, variant };
    let file = |name: String, variant| Form { file: name, sharded: false, variant };
    let mut forms = vec![
        file(format!("{stem}.safetensors"), ""),
        index(format!("{stem}.safetensors.index.json"), ""),
    ];
    for v in VARIANTS {
        forms.push(file(format!("{stem}.{v}.safetensors"), v));
        forms.push(index(format!("{stem}.safetensors.index.{v}.json"), v));
        forms.push(index(format!("{stem}.safetensors.{v}.index.json"), v));
        forms.push(index(format!("{stem}.{v}.safetensors.index.json"), v));
    }
    let pickled = pickled(stem);
    forms.push(file(format!("{pickled}.bin"), ""));
    forms.push(index(format!("{pickled}.bin.index.json"), ""));
    for v in VARIANTS {
        forms.push(file(format!("{pickled}.{v}.bin"), v));
        forms.push(index(format!("{pickled}.bin.index.{v}.json"), v));
    }
    forms
}

/// What weights called `stem` are called where they are pickled: transformers has another name for them.
fn pickled(stem: &str) -> &str {
    if stem == "model" { "pytorch_model" } else { stem }
}

impl Form {
    /// Whether `name`, which starts with the weights' own name, is one of this index's shards, as far as
    /// a name tells: `-00001-of-00002` with the variant before or behind it. Nothing but a plain file.
    pub fn has_shard(&self, stem: &str, name: &str) -> bool {
        let (stem, end) = match self.file.contains(".bin.") {
            true => (pickled(stem), ".bin"),
            false => (stem, ".safetensors"),
        };
        let Some(rest) = name.strip_prefix(stem) else { return false };
        let of = |v: &str| rest.contains(&format!(".{v}-")) || rest.contains(&format!(".{v}."));
        self.sharded
            && rest.contains("-of-")
            && rest.ends_with(end)
            && !rest.contains(['/', '\\'])
            && VARIANTS.iter().all(|v| of(v) == (*v == self.variant))
    }
}

/// What a folder still lacks of the weights `stem` in `dir` below it, as paths below it.
pub(crate) fn missing_weights(root: &Path, dir: &str, stem: &str) -> Vec<String> {
    let has = |file: &str| root.join(file).is_file();
    let path = |file: &str| below(dir, file);
    let forms = forms(stem);
    match forms.iter().find(|form| has(&path(&form.file))) {
        None => vec![path(&forms[0].file)],
        Some(form) if !form.sharded => vec![],
        Some(form) => {
            let object = read_object(&root.join(path(&form.file))).unwrap_or_default();
            let shards = object.get("weight_map").and_then(|map| map.as_object());
            let shards = shards.into_iter().flat_map(|map| map.values());
            let mut shards: Vec<_> = shards.filter_map(|v| v.as_str()).collect();
            shards.sort_unstable();
            shards.dedup();
            shards.into_iter().map(path).filter(|shard| !has(shard)).collect()
        }
    }
}

/// Which of the files `listed` to download for the weights `stem` in `dir`; the error names one that
/// should be there and is not.
pub(crate) fn listed_weights(
    listed: &[String],
    dir: &str,
    stem: &str,
) -> std::result::Result<Vec<String>, String> {
    let path = |file: &str| below(dir, file);
    let forms = forms(stem);
    let Some(form) = forms.iter().find(|form| listed.contains(&path(&form.file))) else {
        return Err(path(&forms[0].file));
    };
    let folder = below(dir, "");
    let is_shard =
        |file: &&String| file.strip_prefix(&folder).is_some_and(|name| form.has_shard(stem, name));
    let shards = listed.iter().filter(is_shard).cloned();
    Ok([path(&form.file)].into_iter().chain(shards).collect())
}

fn below(dir: &str, file: &str) -> String {
    if dir.is_empty() { file.to_owned() } else { format!("{dir}/{file}") }
}
