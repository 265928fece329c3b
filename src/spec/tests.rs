use super::*;

const TEXT: &str = r#"
name = "small"
title = "a small one"

[sampling]
steps = 10

[[rows]]
method = "custom-diffusion"

[[rows]]
label = "w/o Aug"
method = "custom-diffusion"
settings = { augmentation = false }

[scales.default]
concepts = ["dog_plum"]
images = 2

[scales.full]
concepts = ["dog_plum", "cat_mint"]
seeds = 3
"#;

fn parse(text: &str, overrides: &[&str]) -> Result<Experiment> {
    let overrides: Vec<Override> = overrides.iter().map(|o| o.parse().unwrap()).collect();
    Experiment::parse(text, &overrides, Path::new("."))
}

#[test]
fn scales_inherit_from_the_default() {
    let experiment = parse(TEXT, &[]).unwrap();
    let full = experiment.scale("full").unwrap();
    assert_eq!((full.seeds, full.images, full.pair_images), (3, 2, 2));
    assert_eq!(full.concepts, ["dog_plum", "cat_mint"]);
    assert_eq!(experiment.scale("default").unwrap().seeds, 1);
    let error = experiment.scale("huge").unwrap_err();
    assert!(error.hint().unwrap().contains("default, full"), "{error}");
}

#[test]
fn a_scale_samples_in_its_own_way() {
    let text = format!("{TEXT}guidance = 3.0\nscheduler = \"ddim\"\npair_steps = 20\n");
    let experiment = parse(&text, &[]).unwrap();
    let sampling = |scale, group| {
        let s = experiment.scale(scale).unwrap().sampling(&experiment.sampling, group);
        (s.scheduler, s.steps, s.guidance)
    };
    assert_eq!(sampling("default", GroupName::Multi), (SchedulerKind::Ddpm, 10, 6.0));
    assert_eq!(sampling("full", GroupName::Single), (SchedulerKind::Ddim, 10, 3.0));
    assert_eq!(sampling("full", GroupName::Multi), (SchedulerKind::Ddim, 20, 3.0));
    assert!(parse(&text.replace("3.0", "inf"), &[]).is_err());
    let error = parse(&text.replace("\"ddim\"", "\"dpm+\""), &[]).unwrap_err();
    assert_eq!(error.hint(), Some("did you mean dpm++ or ddpm?"), "{error}");
}

#[test]
fn unknown_keys_are_errors_with_a_line_and_a_hint() {
    let error = parse(&TEXT.replace("[sampling]\nsteps", "[sampling]\nstep"), &[]).unwrap_err();
    assert!(error.to_string().contains("line 6"), "{error}");
    assert_eq!(error.hint(), Some("did you mean steps?"));
    let error =
        parse(&TEXT.replace("\"custom-diffusion\"", "\"custom-difusion\""), &[]).unwrap_err();
    let text = format!("{error} {}", error.hint().unwrap_or_default());
    assert!(text.contains("custom-diffusion"), "{text}");
}

#[test]
fn values_are_replaced_from_the_command_line() {
    let set = [
        "sampling.steps=20",
        "rows.1.settings.lr=1e-3",
        "rows.0.label=Ours",
        "scales.default.concepts=[\"cat_mint\"]",
    ];
    let experiment = parse(TEXT, &set).unwrap();
    assert_eq!(experiment.sampling.steps, 20);
    assert_eq!(experiment.rows[1].settings["lr"].as_float(), Some(1e-3));
    assert_eq!(experiment.rows[0].label.as_deref(), Some("Ours"));
    assert_eq!(experiment.scale("default").unwrap().concepts, ["cat_mint"]);
    for bad in ["rows.9.label=x", "name.x=1", "sampling.stepz=1"] {
        assert!(parse(TEXT, &[bad]).is_err(), "{bad}");
    }
    assert!("sampling".parse::<Override>().is_err());
    assert!("a..b=1".parse::<Override>().is_err());
}

#[test]
fn what_cannot_be_run_is_refused() {
    for (what, with) in [
        ("name = \"small\"", "name = \"../small\""),
        ("concepts = [\"dog_plum\", \"cat_mint\"]", "concepts = [\"dog_plum\", \"dog_plum\"]"),
        ("label = \"w/o Aug\"\n", ""),
        ("images = 2", "images = 0"),
        ("[scales.default]", "[scales.usual]"),
        ("steps = 10", "steps = 0"),
    ] {
        assert!(parse(&TEXT.replace(what, with), &[]).is_err(), "{what} -> {with}");
    }
}
