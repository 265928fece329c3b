//! The options of an experiment as a command line has them, so that a job, and who makes an image again, says
//! what the user said.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::backbone::{BackboneArgs, SingleFileArgs};
use super::device::DeviceArgs;
use super::experiment::{ComputeArgs, Options};
use crate::diffusion::BackboneSpec;
use crate::spec::Prediction;

/// Options of a command line, a name and its value each, or a flag alone.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn say(&mut self, name: &str, value: impl ToString) {
        self.0.extend([format!("--{name}"), value.to_string()]);
    }

    fn types(&mut self, on: &DeviceArgs) {
        let DeviceArgs { device: _, dtype, tf32 } = on;
        self.say("dtype", dtype.as_str());
        self.0.extend((*tf32).then(|| "--tf32".to_owned()));
    }
}

/// All options that are given. They are taken apart without `..`, so that none can be added without a word
/// here on how jobs are told.
pub fn of(options: &Options) -> Vec<String> {
    let Options { filter, shard, compute, out, .. } = options;
    let ComputeArgs { on: DeviceArgs { device, dtype: _, tf32: _ }, ort } = compute;
    let mut words = Words(of_results(options));
    filter.iter().for_each(|f| words.say("filter", f));
    shard.iter().for_each(|s| words.say("shard", format_args!("{}/{}", s.number(), s.of())));
    words.say("device", device);
    words.say("ort", name(ort.to_possible_value()));
    out.iter().for_each(|dir| words.say("out", dir.display()));
    words.0
}

/// The options that results depend on, and where these are.
pub fn of_results(options: &Options) -> Vec<String> {
    let Options {
        store,
        scale,
        overrides,
        dataset,
        filter: _,
        shard: _,
        seeds,
        backbone: BackboneArgs { backbone, about },
        clip,
        compute: ComputeArgs { on, ort: _ },
        out: _,
    } = options;
    let SingleFileArgs { backbone_config, prediction } = about;
    let mut words = Words::default();
    words.say("store", store.display());
    words.say("scale", scale);
    overrides.iter().for_each(|o| words.say("set", o));
    dataset
        .iter()
        .for_each(|(kind, dir)| words.say("dataset", format_args!("{kind}={}", dir.display())));
    seeds.iter().for_each(|n| words.say("seeds", n));
    backbone.iter().for_each(|b| words.say("backbone", b));
    backbone_config.iter().for_each(|dir| words.say("backbone-config", dir.display()));
    prediction.iter().for_each(|p| words.say("prediction", name(p.to_possible_value())));
    clip.iter().for_each(|c| words.say("clip", c));
    words.types(on);
    words.0
}

/// A backbone as commands are told of it, with the types that it computes in.
pub fn of_backbone(backbone: &BackboneSpec, compute: &ComputeArgs) -> Vec<String> {
    let BackboneSpec { name: given, config, prediction } = backbone;
    let mut words = Words::default();
    words.say("backbone", given);
    config.iter().for_each(|dir| words.say("backbone-config", dir.display()));
    let prediction = prediction.and_then(Prediction::of);
    prediction.iter().for_each(|p| words.say("prediction", name(p.to_possible_value())));
    words.types(&compute.on);
    words.0
}

/// A word as a shell reads it, and sbatch in the lines that begin with its name.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn name(value: Option<PossibleValue>) -> String {
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_shell_reads_a_word_as_it_was() {
        assert_eq!(quoted("runs/a-b_1.5"), "runs/a-b_1.5");
        assert_eq!(quoted("my runs"), "'my runs'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }

    /// What is said again is understood as it was said first.
    #[test]
    fn a_job_is_told_what_the_user_said() {
        let said = [
            "x",
            "--store",
            "a store",
            "--scale",
            "full",
            "--set",
            "sampling.steps=20",
            "--set",
            "rows.0.settings.train=kv,tokens",
            "--set",
            "scales.full.concepts=[\"dog_plum\", \"it's\"]",
            "--dataset",
            "dreambench=some/where",
            "--filter",
            "seed=0,seed=1",
            "--filter",
            "lr=1e-3",
            "--shard",
            "2/3",
            "--seeds",
            "4",
            "--backbone",
            "owner/name",
            "--backbone-config",
            "dir",
            "--prediction",
            "v",
            "--clip",
            "mini",
            "--device",
            "cuda:1",
            "--dtype",
            "bf16",
            "--tf32",
            "--ort",
            "tract",
            "--out",
            "out",
        ];
        let first = of(&Line::parse_from(said).options);
        let again = std::iter::once("x".to_owned()).chain(first.iter().cloned());
        assert_eq!(of(&Line::parse_from(again).options), first);
        for word in ["a store", "seed=0,seed=1", "2/3", "v", "cuda:1", "bf16", "--tf32", "tract"] {
            assert!(first.iter().any(|w| w == word), "{word}: {first:?}");
        }
        assert!(first.iter().any(|w| w.contains("\"it's\"")), "{first:?}");
    }
}
