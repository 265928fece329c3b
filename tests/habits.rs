//! What people do with the commands on single checkpoints, and what must not go wrong without a word.

mod desk;

use std::path::Path;

use desk::{Desk, both, cdbench, ends, files, ok, refused};

#[test]
fn a_checkpoint_is_not_overwritten_without_a_word() {
    let desk = Desk::new();
    let [dog, cat, both_, store] = ["dog", "cat", "both", "store"].map(|name| desk.path(name));
    ok(&desk.train("custom-diffusion", "dog_plum", &dog, &store));
    let said = std::fs::read_to_string(Path::new(&dog).join("checkpoint.json")).unwrap();
    for wanted in ["custom-diffusion", "dog_plum", "\"dog\"", "<new1>", "backbone"] {
        assert!(said.contains(wanted), "{said}");
    }
    // another concept, and the same concept in another way
    let err = refused(&desk.train("custom-diffusion", "cat_mint", &dog, &store));
    assert!(err.contains("of <new1> dog (dog_plum)") && err.contains("--force"), "{err}");
    let again = desk.train("custom-diffusion", "dog_plum", &dog, &store);
    refused(&[&again[..], &["--seed", "7"]].concat());
    assert_eq!(said, std::fs::read_to_string(Path::new(&dog).join("checkpoint.json")).unwrap());

    ok(&desk.train("custom-diffusion", "cat_mint", &cat, &store));
    // what a merge needs, the checkpoints say themselves
    ok(&["merge", &dog, &cat, "-o", &both_]);
    let said = std::fs::read_to_string(Path::new(&both_).join("checkpoint.json")).unwrap();
    assert!(said.contains("<new2>") && said.contains("\"cat\""), "{said}");
    ok(&["merge", &dog, &cat, "-o", &both_]);
    for (args, wanted) in [
        (vec!["merge", &dog, &cat, "-o", &dog], "one of the checkpoints"),
        (vec!["merge", &dog, &dog, "-o", &both_], "same checkpoint"),
        (vec!["merge", &cat, &dog, "-o", &both_], "another checkpoint is here, merge of"),
        (
            vec!["merge", &dog, &cat, "--category", "cat", "--category", "dog", "-o", &both_],
            "trained on the category `dog`, not `cat`",
        ),
        (
            vec!["merge", &both_, &cat, "-o", &dog],
            "it has 2 concepts, and checkpoints of one are merged",
        ),
    ] {
        let err = refused(&args);
        assert!(err.contains(wanted), "{args:?}: {err}");
    }
    // what says nothing of itself needs words, and they are checked as those of a training are
    std::fs::remove_file(Path::new(&cat).join("checkpoint.json")).unwrap();
    let err = refused(&["merge", &dog, &cat, "-o", &both_]);
    assert!(err.contains("--category"), "{err}");
    let bad = ["merge", &dog, &cat, "--category", "dog", "--category", "<new1> cat", "-o", &both_];
    assert!(refused(&bad).contains("is no category"));
    let err = refused(&desk.train("custom-diffusion", "cat_mint", &cat, &store));
    assert!(err.contains("another checkpoint is here, with <new1>.safetensors"), "{err}");

    let force = [&desk.train("textual-inversion", "cat_mint", &dog, &store)[..], &["--force"]];
    ok(&force.concat());
    assert_eq!(files(Path::new(&dog), "safetensors").len(), 1, "what was there is gone");
}

#[test]
fn images_of_two_prompts_are_not_mixed() {
    let desk = Desk::new();
    let sample = |prompt: &'static str, out: &str, more: &[&str]| -> Vec<String> {
        let args = ["sample", "--prompt", prompt, "--steps", "1", "--scheduler", "ddim", "-o", out];
        args.iter().chain(more).map(|s| s.to_string()).collect()
    };
    let run = |args: &[String]| cdbench(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let fine = |args: Vec<String>| {
        let output = run(&args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let not = |args: Vec<String>, wanted: &str| {
        let output = run(&args);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{args:?}: {err}");
        assert!(err.contains(wanted) && err.contains("hint: "), "{args:?}: {err}");
    };
    let (folder, file) = (desk.path("out"), desk.path("x.png"));
    fine(sample("a dog", &folder, &["--num", "3"]));
    // the same, more and fewer of the same
    fine(sample("a dog", &folder, &["--num", "4"]));
    fine(sample("a dog", &folder, &["--num", "2"]));
    for (prompt, more) in [
        ("a cat", &[][..]),
        ("a cat", &["--num", "8"]),
        ("a dog", &["--seed", "5"]),
        ("a dog", &["--guidance", "2"]),
    ] {
        not(sample(prompt, &folder, more), "made in another way");
    }
    assert_eq!(files(Path::new(&folder), "png").len(), 4);
    fine(sample("a cat", &folder, &["--force"]));
    assert_eq!(files(Path::new(&folder), "png").len(), 1, "those of the other prompt are gone");

    fine(sample("a dog", &file, &[]));
    assert!(Path::new(&file).is_file());
    not(sample("a cat", &file, &[]), "x.png");
    not(sample("a dog", &desk.path("y.png"), &["--num", "2"]), "do not fit in a file");
    not(sample("a dog", &desk.path("y.JPG"), &[]), "written as PNG");
    fine(sample("a dog", &desk.path("z.PNG"), &[]));
    assert!(Path::new(&desk.path("z.PNG")).is_file());
}

#[test]
fn numbers_that_make_no_sense_are_refused_at_every_door() {
    let desk = Desk::new();
    let (out, store) = (desk.path("out"), desk.path("store"));
    for value in ["inf", "nan", "-3", "1e9"] {
        let args = ["sample", "--prompt", "a dog", "--guidance", value, "-o", &out];
        assert!(refused(&args).contains("guidance"), "{value}");
    }
    let args = ["sample", "--prompt", "a dog", "--eta", "-1", "--scheduler", "ddim", "-o", &out];
    assert!(refused(&args).contains("η"));
    for set in ["lr=nan", "lr=inf", "token_lr=nan", "weight_decay=-1", "steps=0"] {
        let train = desk.train("custom-diffusion", "dog_plum", &out, &store);
        let err = refused(&[&train[..], &["--set", set]].concat());
        assert!(err.contains(set.split('=').next().unwrap()), "{set}: {err}");
    }
    let train = desk.train("custom-diffusion", "dog_plum", &out, &store);
    assert!(refused(&[&train[..], &["--threshold", "nan"]].concat()).contains("--threshold"));
    let smoke = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/smoke.toml");
    let run = ["run", smoke, "--store", &store, "--dry-run", "--set", "sampling.guidance=nan"];
    assert!(refused(&run).contains("sampling.guidance"));
    for tolerance in ["kid=nan", "kid=inf", "kid=-1"] {
        let check = ["check", smoke, "--baseline", "none", "--tolerance", tolerance];
        assert!(ends(&check, 2).contains("--tolerance"), "{tolerance}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_single_command_ends_with_the_code_of_what_went_wrong() {
    let desk = Desk::new();
    let (out, store) = (desk.path("out"), desk.path("store"));
    let train = desk.train("custom-diffusion", "dog_plum", &out, &store);
    let with = |more: &[&'static str]| [&train[..], more].concat();
    let diverged = ends(&with(&["--set", "lr=1e30", "--set", "steps=5"]), 6);
    assert!(diverged.contains("diverged") && !diverged.contains("cell"), "{diverged}");
    // met while it runs, in the first stage
    let corpus = desk.photos("corpus");
    std::fs::write(Path::new(&corpus).join("a.txt"), "a red car at night").unwrap();
    let none = refused(&[&train[..], &["--corpus", &corpus, "--threshold", "1"]].concat());
    assert!(none.contains("lower the threshold") && !none.contains("cell"), "{none}");
    let none = refused(&desk.train("pretrained", "dog_plum", &out, &store));
    assert!(none.contains("trains nothing"), "{none}");
    let alone = refused(&desk.train("merge", "dog_plum", &out, &store));
    assert!(alone.contains("not 1"), "{alone}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn any_seed_trains() {
    let desk = Desk::new();
    let (out, store) = (desk.path("out"), desk.path("store"));
    let train = desk.train("textual-inversion", "dog_plum", &out, &store);
    ok(&[&train[..], &["--seed", "18446744073709551615"]].concat());
    let args = ["sample", "--prompt", "a dog", "--steps", "1", "--seed", "18446744073709551615"];
    ok(&[&args[..], &["--num", "2", "-o", &desk.path("images")]].concat());
}

#[test]
fn folders_are_told_apart_and_a_corrupt_picture_can_be_left_out() {
    let desk = Desk::new();
    let (a, b) = (desk.photos("a/images"), desk.photos("b/images"));
    let (cat, dog) = (format!("{a}:cat"), format!("tom={b}:dog"));
    let (out, store) = (desk.path("out"), desk.path("store"));
    let train = desk.train("textual-inversion", &cat, &out, &store);
    let two = [&train[..], &["--concept", &dog]].concat();
    let (_, err) = both(&two);
    assert!(err.contains("<new1> cat (images) and <new2> dog (tom)"), "{err}");

    std::fs::write(Path::new(&a).join("b.jpg"), "no picture").unwrap();
    let err = refused(&[&train[..], &["--force"]].concat());
    assert!(err.contains("b.jpg") && err.contains("--skip-corrupt"), "{err}");
    ok(&[&train[..], &["--force", "--skip-corrupt"]].concat());
}

/// A backbone whose vocabulary has a modifier token already.
#[test]
fn the_next_free_token_is_taken() {
    use candle_core::{DType, Device};
    use cdbench::diffusion::Backbone;
    use cdbench::methods::Delta;
    let desk = Desk::new();
    let (model, dog, cat) = (desk.path("model"), desk.path("dog"), desk.path("cat"));
    let mut backbone = Backbone::load("mini", &Device::Cpu, DType::F32).unwrap();
    let row = backbone.text_encoder.token_embedding(5).unwrap().unsqueeze(0).unwrap();
    let delta = Delta::new(Default::default(), vec![("<new1>".into(), row)]);
    let _undo = delta.apply(&mut backbone).unwrap();
    backbone.save(Path::new(&model), DType::F32).unwrap();

    let store = desk.path("store");
    let none = ["--backbone", &model, "--set", "regularization=none"];
    for (concept, out) in [("dog_plum", &dog), ("cat_mint", &cat)] {
        let train = desk.train("custom-diffusion", concept, out, &store);
        let (_, err) = both(&[&train[..], &none].concat());
        assert!(err.contains("<new2>"), "{err}");
        assert!(Path::new(out).join("<new2>.safetensors").is_file());
    }
    let merged = desk.path("both");
    ok(&["merge", &dog, &cat, "--backbone", &model, "-o", &merged]);
    assert!(Path::new(&merged).join("<new3>.safetensors").is_file());
    let prompt = "a <new2> dog and a <new3> cat";
    let sample = ["sample", "--checkpoint", &merged, "--prompt", prompt, "--steps", "1"];
    ok(&[&sample[..], &["--backbone", &model, "-o", &desk.path("x.png")]].concat());
    // on another backbone than it was trained on
    let (_, err) =
        both(&[&sample[..4], &["a dog", "--steps", "1", "-o", &desk.path("y.png")]].concat());
    assert!(err.contains("trained on another backbone"), "{err}");
}

#[test]
fn fewer_samples_than_prompts_are_said() {
    let desk = Desk::new();
    desk.photos("out/samples");
    let (folder, targets) = (desk.path("out"), desk.photos("targets"));
    let prompts = |text: &str| std::fs::write(desk.path("out/prompts.json"), text).unwrap();
    let evaluate = ["evaluate", &folder, "--targets", &targets];
    prompts(r#"{"a": "a dog", "b": "a dog", "c": "a cat"}"#);
    let (_, err) = both(&evaluate);
    assert!(err.contains("2 of 3 prompts have no sample"), "{err}");
    prompts(r#"{"a.png": "a dog"}"#);
    assert!(!both(&evaluate).1.contains("no sample"));
}

#[test]
fn what_words_attend_to_is_drawn_beside_images() {
    let desk = Desk::new();
    let sample = |out: &str, more: &[&str]| -> Vec<String> {
        let prompt = "photo of a dog next to a red chair";
        let args = ["sample", "--prompt", prompt, "--steps", "2", "--scheduler", "ddim", "-o", out];
        args.iter().chain(more).map(|s| s.to_string()).collect()
    };
    fn refs(args: &[String]) -> Vec<&str> {
        args.iter().map(String::as_str).collect()
    }
    let fine = |args: &[String]| ok(&refs(args));
    let not = |args: &[String]| refused(&refs(args));
    let (plain, seen) = (desk.path("plain"), desk.path("seen"));
    fine(&sample(&plain, &["--num", "2"]));
    let said = fine(&sample(&seen, &["--num", "2", "--attention", "dog, red chair"]));
    assert_eq!(said.lines().count(), 4, "{said}");
    for name in ["00000", "00001"] {
        let read = |path: String| image::open(path).unwrap().into_rgb8();
        let image = format!("{seen}/{name}.png");
        assert!(
            std::fs::read(&image).unwrap() == std::fs::read(format!("{plain}/{name}.png")).unwrap()
        );
        let drawing = read(format!("{seen}/{name}-attention.png"));
        let side = read(image).width();
        assert!(
            drawing.width() > 3 * side && drawing.height() > side,
            "{:?}",
            drawing.dimensions()
        );
    }
    // nothing that reads pictures takes drawings for some
    let pictures = cdbench::data::read_pictures(Path::new(&seen), cdbench::data::OnCorrupt::Refuse);
    assert_eq!(pictures.unwrap().len(), 2);

    let other = sample(&seen, &["--num", "2", "--attention", "dog"]);
    let err = not(&other);
    assert!(err.contains("00000-attention.png") && err.contains("--force"), "{err}");
    fine(&[&other[..], &["--force".into()]].concat());
    fine(&sample(&seen, &["--num", "2"]));
    assert_eq!(files(Path::new(&seen), "png").len(), 4, "the same images again");
    fine(&sample(&seen, &["--guidance", "2", "--force"]));
    assert_eq!(files(Path::new(&seen), "png").len(), 1, "drawings go with their images");

    for word in ["cat", "xyzzy", "dog chair"] {
        let err = not(&sample(&desk.path("x.png"), &["--attention", word]));
        assert!(
            err.contains(word) && err.contains("red chair`") && err.contains("hint: "),
            "{err}"
        );
    }
    assert!(!Path::new(&desk.path("x.png")).exists());
    ends(&["sample", "--prompt", "a dog", "--attention", "dog,,", "-o", &desk.path("x.png")], 2);
}
