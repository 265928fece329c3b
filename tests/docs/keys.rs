//! `docs/experiment-keys.md`: every key of an experiment file.

use std::fmt::Write as _;

use cdbench::methods::{Profile, registry};
use cdbench::spec::{RegularizationSpec, SamplingSpec};
use serde_json::Value;

use super::source::{Field, fields};

/// A table of an experiment file.
struct Part {
    /// As a file has it.
    heading: &'static str,
    about: &'static str,
    file: &'static str,
    item: &'static str,
}

const fn part(
    heading: &'static str,
    about: &'static str,
    file: &'static str,
    item: &'static str,
) -> Part {
    Part { heading, about, file, item }
}

const PARTS: [Part; 14] = [
    part("The file", "What stands before the first table.", "src/spec/mod.rs", "Experiment"),
    part("`[sampling]`", "", "src/spec/mod.rs", "SamplingSpec"),
    part(
        "`[[rows]]`",
        "Each is a row of the table, or with a `sweep` several.",
        "src/spec/row.rs",
        "Row",
    ),
    part(
        "`rows.sampling`",
        "In a row `sampling = { steps = 20 }`.",
        "src/spec/row.rs",
        "RowSampling",
    ),
    part(
        "`rows.compress`",
        "In a row `compress = { share = 0.6 }`: one of these.",
        "src/methods/compress.rs",
        "Compression",
    ),
    part(
        "`rows.settings`",
        "In a row `settings = { lr = 1e-4 }`: what differs from the method's defaults, which stand below. A row \
         with `method = \"command\"` has any keys here.",
        "src/methods/settings.rs",
        "Settings",
    ),
    part(
        "`[scales.NAME]`",
        "`default` runs unless `--scale` names another; what another does not say is as in `default`.",
        "src/spec/scale.rs",
        "ScaleSpec",
    ),
    part(
        "`[[concepts]]`",
        "Without any, and without `[dataset]`, names are those of the built-in world: `cdbench world preview \
         --concepts` shows them.",
        "src/data/concept.rs",
        "FolderSource",
    ),
    part("`[[pairs]]`", "Also `[[sets]]`.", "src/spec/mod.rs", "PairSpec"),
    part(
        "`[dataset]`",
        "See [data-sets.md](data-sets.md).",
        "src/data/dataset/mod.rs",
        "DatasetSpec",
    ),
    part("`[regularization]`", "", "src/spec/mod.rs", "RegularizationSpec"),
    part("`[evaluation]`", "", "src/spec/mod.rs", "EvaluationSpec"),
    part(
        "`[extractors]`",
        "`NAME = \"PATH or hub id\"`, or `NAME = { onnx = \"FILE\", size = 224 }` with these keys.",
        "src/clip/file.rs",
        "FileSpec",
    ),
    part(
        "`[measures.NAME]`",
        "See [external-methods.md](external-methods.md).",
        "src/spec/measure.rs",
        "MeasureSpec",
    ),
];

/// Names that stand for one of a few values: what they are called here, and where they are.
const CHOICES: [(&str, &str); 11] = [
    ("Better", "src/metrics/measure.rs"),
    ("Gives", "src/metrics/measure.rs"),
    ("SchedulerKind", "src/diffusion/scheduler/mod.rs"),
    ("Regularization", "src/methods/settings.rs"),
    ("Modifier", "src/methods/settings.rs"),
    ("Decay", "src/train/lr.rs"),
    ("GroupName", "src/spec/mod.rs"),
    ("Prediction", "src/spec/mod.rs"),
    ("Profile", "src/methods/mod.rs"),
    ("OnCorrupt", "src/data/picture.rs"),
    ("Sides", "src/clip/file.rs"),
];

/// The page.
pub fn page() -> String {
    let mut out = "# The keys of an experiment file\n\n\
        Made from the code by `CDBENCH_WRITE=1 cargo test --release --test docs`: do not edit it.\n\n\
        An experiment is a TOML file, such as those in [experiments/](../experiments). A key that is not known is \
        an error that names the nearest one, and so is a value that does not fit. `--set KEY=VALUE` replaces a \
        value for one run: `--set sampling.steps=20`, `--set rows.0.settings.lr=1e-4`. Paths start at the file's \
        folder.\n"
        .to_owned();
    for part in &PARTS {
        let _ = write!(out, "\n## {}\n\n", part.heading);
        if !part.about.is_empty() {
            let _ = write!(out, "{}\n\n", part.about);
        }
        out += &table(&fields(part.file, part.item), part.item);
        if part.item == "Settings" {
            out += &defaults();
        }
    }
    out
}

fn table(fields: &[Field], item: &str) -> String {
    // a method has all settings already, and of the ways to compress one is taken
    let free = ["Settings", "Compression"].contains(&item);
    let known = match item {
        "SamplingSpec" => serde_json::to_value(SamplingSpec::default()).unwrap(),
        "RegularizationSpec" => serde_json::to_value(RegularizationSpec::default()).unwrap(),
        _ => Value::Null,
    };
    let mut out = "| key | value | |\n|---|---|---|\n".to_owned();
    for field in fields {
        let mut said = field.doc.clone();
        if let Some(choices) = choices(&field.rust) {
            let _ = write!(said, " {choices}");
        }
        if let Some(default) = known.get(&field.name).filter(|value| !value.is_null()) {
            let _ = write!(said, " Default: `{default}`.");
        }
        for alias in &field.aliases {
            let _ = write!(said, " Also called `{alias}`.");
        }
        if !field.optional && !free {
            said += " **Must be given.**";
        }
        let _ = writeln!(out, "| `{}` | {} | {said} |", field.name, toml_type(&field.rust));
    }
    out
}

/// A type as people who write TOML call it.
fn toml_type(rust: &str) -> String {
    let inner = |outer: &str| rust.strip_prefix(outer).and_then(|r| r.strip_suffix('>'));
    if let Some(inner) = inner("Option<") {
        return toml_type(inner);
    }
    if let Some(inner) = inner("Vec<") {
        return match inner {
            "Row" | "FolderSource" | "PairSpec" => "tables".into(),
            _ => format!("list of {}", toml_type(inner)),
        };
    }
    if let Some(inner) = inner("BTreeMap<String, ") {
        return format!("table of {}", toml_type(inner));
    }
    match rust {
        "String" => "text",
        "PathBuf" => "path",
        "bool" => "true or false",
        "u32" | "u64" | "usize" => "whole number",
        "f32" | "f64" => "number",
        "[f64; 2]" => "list of 2 numbers",
        "[f32; 3]" => "list of 3 numbers",
        "toml::Value" => "any value",
        "toml::Table" => "table",
        "PromptSource" => "list of texts, or a path",
        "Trainable" => "text, or list of texts",
        "FilterName"
        | "SchedulerKind"
        | "Regularization"
        | "Modifier"
        | "Decay"
        | "GroupName"
        | "Prediction"
        | "crate::methods::Profile"
        | "OnCorrupt"
        | "Sides"
        | "Better"
        | "Gives"
        | "Need" => "text",
        "SamplingSpec" | "EvaluationSpec" | "RegularizationSpec" | "RowSampling"
        | "Compression" | "DatasetSpec" | "ScaleSpec" | "ExtractorSpec" | "MeasureSpec" => "table",
        other => panic!("what do people call a {other}? Say it in tests/docs/keys.rs"),
    }
    .to_owned()
}

/// The values of a type that has a few.
fn choices(rust: &str) -> Option<String> {
    let name = rust.rsplit("::").next()?;
    let name = name.trim_start_matches("Option<").trim_start_matches("Vec<").trim_end_matches('>');
    let (item, file) = CHOICES.iter().find(|(item, _)| *item == name)?;
    let all = fields(file, item).into_iter();
    let all = all.map(|v| format!("`\"{}\"` ({})", v.name, v.doc.trim_end_matches('.')));
    Some(format!("One of {}.", all.collect::<Vec<_>>().join("; ")))
}

/// What the methods have where a row says nothing.
fn defaults() -> String {
    let mut out = String::new();
    let profiles = [
        (Profile::Sd, "sd", "Stable Diffusion and other backbones of more than 128 pixels"),
        (Profile::Mini, "mini", "the built-in backbone and others of up to 128 pixels"),
    ];
    for (profile, name, of) in profiles {
        let methods = registry()
            .iter()
            .filter(|method| !["pretrained", "command", "checkpoint"].contains(&method.name()));
        let all: Vec<(&str, Value)> = methods
            .map(|m| (m.name(), serde_json::to_value(m.defaults(profile, 1)).unwrap()))
            .collect();
        let names: Vec<String> = all.iter().map(|(name, _)| format!("`{name}`")).collect();
        let _ = write!(
            out,
            "\nThe methods' defaults for {of} (profile `{name}`), for one concept:\n\n| key | {} |\n|---|{}\n",
            names.join(" | "),
            "---|".repeat(names.len())
        );
        let keys: Vec<&String> = all[0].1.as_object().unwrap().keys().collect();
        for key in keys {
            let values: Vec<String> =
                all.iter().map(|(_, settings)| shown(&settings[key])).collect();
            let _ = writeln!(out, "| `{key}` | {} |", values.join(" | "));
        }
    }
    out
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
