//! The forms in which a model's weights lie in its folder.

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
