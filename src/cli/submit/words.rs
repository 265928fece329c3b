//! The options of an experiment as a command line has them, so that a job says what the user said.

use clap::ValueEnum;

use super::super::backbone::{BackboneArgs, SingleFileArgs};
use super::super::experiment::{ComputeArgs, Options};

/// All options that are given. They are taken apart without `..`, so that none can be added without a word
/// here on how jobs are told.
pub fn of(options: &Options) -> Vec<String> {
    let Options {
        store,
        scale,
        overrides,
        dataset,
        filter,
        shard,
        seeds,
        backbone: BackboneArgs { backbone, about },
        clip,
        compute: ComputeArgs { device, dtype, ort },
        out,
    } = options;
    let SingleFileArgs { backbone_config, prediction } = about;
    let mut words = vec![];
    let mut say = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    say("store", store.display().to_string());
    say("scale", scale.clone());
    overrides.iter().for_each(|o| say("set", o.to_string()));
    dataset.iter().for_each(|(kind, dir)| say("dataset", format!("{kind}={}", dir.display())));
    filter.iter().for_each(|f| say("filter", f.to_string()));
    shard.iter().for_each(|s| say("shard", format!("{}/{}", s.number(), s.of())));
    seeds.iter().for_each(|n| say("seeds", n.to_string()));
    backbone.iter().for_each(|b| say("backbone", b.clone()));
    backbone_config.iter().for_each(|dir| say("backbone-config", dir.display().to_string()));
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    };
    prediction.iter().for_each(|p| say("prediction", name(p.to_possible_value())));
    clip.iter().for_each(|c| say("clip", c.clone()));
    say("device", device.to_string());
    say("dtype", dtype.as_str().to_owned());
    say("ort", name(ort.to_possible_value()));
    out.iter().for_each(|dir| say("out", dir.display().to_string()));
    words
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
            "--ort",
            "tract",
            "--out",
            "out",
        ];
        let first = of(&Line::parse_from(said).options);
        let again = std::iter::once("x".to_owned()).chain(first.iter().cloned());
        assert_eq!(of(&Line::parse_from(again).options), first);
        for word in ["a store", "seed=0,seed=1", "2/3", "v", "cuda:1", "bf16", "tract"] {
            assert!(first.iter().any(|w| w == word), "{word}: {first:?}");
        }
        assert!(first.iter().any(|w| w.contains("\"it's\"")), "{first:?}");
    }
}
