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

#[test]
fn numbers_out_of_range_are_refused_by_their_keys() {
    for (key, value) in [
        ("sampling.guidance", "inf"),
        ("sampling.guidance", "nan"),
        ("sampling.guidance", "-3"),
        ("sampling.guidance", "1e300"),
        ("scales.full.guidance", "nan"),
        ("scales.full.guidance", "-0.1"),
        ("scales.default.train_steps", "inf"),
        ("scales.default.train_steps", "nan"),
        ("scales.default.train_steps", "1e9"),
        ("scales.default.train_steps", "-1.0"),
        ("scales.default.steps", "1001"),
        ("regularization.threshold", "nan"),
        ("regularization.threshold", "2.0"),
    ] {
        let error = parse(TEXT, &[&format!("{key}={value}")]).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{key} = {value}: {error}");
        assert!(error.to_string().contains(key), "{key} = {value}: {error}");
    }
    assert!(parse(TEXT, &["sampling.guidance=0"]).is_ok());
}

#[test]
fn names_have_letters_of_any_script_and_no_paths() {
    for name in ["狗", "Élan_2", "a.b-c"] {
        let text = TEXT.replace("name = \"small\"", &format!("name = \"{name}\""));
        assert_eq!(parse(&text, &[]).unwrap().name, name);
    }
    for name in ["", ".", ".hidden", "a/b", "a b", "a;b", "a\\\\b"] {
        let text = TEXT.replace("name = \"small\"", &format!("name = \"{name}\""));
        let error = parse(&text, &[]).unwrap_err();
        assert!(error.to_string().contains("`name`"), "{name}: {error}");
    }
}

#[test]
fn a_file_that_is_not_there_is_guessed_and_one_that_is_no_text_is_bad_input() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("table7.toml"), TEXT).unwrap();
    let error = Experiment::read(&dir.path().join("tabel7.toml"), &[]).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(error.hint().unwrap().ends_with("table7.toml?"), "{:?}", error.hint());
    // a name alone is looked for where experiments are kept
    let error = Experiment::read(Path::new("table1"), &[]).unwrap_err();
    let wanted = Path::new("experiments").join("table1.toml");
    assert!(error.hint().unwrap().contains(&wanted.display().to_string()), "{:?}", error.hint());
    std::fs::write(dir.path().join("table7.toml"), b"name = \"\xff\xfe\"").unwrap();
    let error = Experiment::read(&dir.path().join("table7.toml"), &[]).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(error.to_string().contains("table7.toml"), "{error}");
}
