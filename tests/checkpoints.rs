//! Other people's checkpoints through the program: converted, sampled, merged, judged, and as rows of an
//! experiment.

mod desk;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use cdbench::diffusion::Backbone;
use cdbench::diffusion::png::Png;
use cdbench::methods::Delta;
use cdbench::rng::Rng;
use desk::{Desk, both, files, ok, refused};

/// A change of the embedded backbone's keys and values, with a token of this name.
fn checkpoint(token: &str, seed: u64) -> Delta {
    let backbone = Backbone::load("mini", &Device::Cpu, DType::F32).unwrap();
    let mut rng = Rng::new(seed, "checkpoint");
    let kv =
        |name: &str| name.ends_with("attn2.to_k.weight") || name.ends_with("attn2.to_v.weight");
    let own = backbone.unet.params().iter().filter(|p| kv(p.name()));
    let tensors: Vec<(String, Tensor)> = own
        .map(|p| {
            let moved = (rng.normal(p.shape(), &Device::Cpu).unwrap() * 0.01).unwrap();
            (format!("unet.{}", p.name()), (p.to_file().unwrap() + moved).unwrap())
        })
        .collect();
    let row = backbone.text_encoder.token_embedding(5).unwrap().unsqueeze(0).unwrap();
    Delta::new(tensors.into_iter().collect(), vec![(token.to_owned(), row)])
}

fn image(path: &str) -> Vec<u8> {
    Png::read(Path::new(path)).unwrap().rgb
}

#[test]
fn every_dialect_samples_the_same() {
    let desk = Desk::new();
    let own = desk.path("own");
    checkpoint("<new1>", 1).save(Path::new(&own)).unwrap();
    let sample = |checkpoint: &str, name: &str| {
        let out = desk.path(&format!("{name}.png"));
        let prompt = ["--prompt", "photo of a <new1> dog", "--steps", "2", "-o", &out];
        let (_, err) = both(&[&["sample", "--checkpoint", checkpoint][..], &prompt].concat());
        assert!(err.contains("tokens of the checkpoint: <new1>"), "{err}");
        image(&out)
    };
    let wanted = sample(&own, "own");
    for (to, out, more) in [
        ("diffusers", "diffusers", &[][..]),
        ("authors", "delta.bin", &[]),
        ("authors-compressed", "small.bin", &["--backbone", "mini", "--rank", "1000"]),
        ("lora", "lora", &["--backbone", "mini", "--share", "1"]),
        ("kohya", "kohya", &["--backbone", "mini", "--rank", "1000"]),
    ] {
        let path = desk.path(out);
        let args = ["convert", &own, &path, "--to", to];
        let (names, err) = both(&[&args[..], more].concat());
        assert!(names.contains(&path) && err.contains("1 token: <new1>"), "{names} {err}");
        assert_eq!(err.contains("100.00 % of the change is kept"), !more.is_empty(), "{err}");
        let found = sample(&path, to);
        let off = wanted.iter().zip(&found).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(off <= Some(1), "{to}: {off:?}");
    }
    // nothing is written over, and what there is no place for is said
    let delta = desk.path("delta.bin");
    let again = ["convert", &own, &delta, "--to", "authors"];
    assert!(refused(&again).contains("--force"));
    ok(&[&again[..], &["--force"]].concat());
    assert!(
        refused(&["convert", &delta, &delta, "--to", "authors", "--force"])
            .contains("is converted")
    );
    let said = refused(&["convert", &own, &desk.path("x"), "--to", "a1111"]);
    assert!(said.contains("no place") && said.contains("kohya"), "{said}");
    let said = refused(&["convert", &own, &desk.path("x"), "--to", "lora"]);
    assert!(said.contains("--rank"), "{said}");
    assert!(
        refused(&["convert", &own, &desk.path("lora"), "--to", "authors"])
            .contains("another checkpoint")
    );
    assert!(ok(&["convert", "--help"]).contains("delta.ckpt of the authors' code"));
}

#[test]
fn merged_checkpoints_of_others_say_which_tokens_came() {
    let desk = Desk::new();
    let (dog, cat, both_) = (desk.path("dog"), desk.path("cat"), desk.path("both"));
    checkpoint("<dog-toy>", 1).save(Path::new(&dog)).unwrap();
    checkpoint("<tabby>", 2).save(Path::new(&cat)).unwrap();
    let bin = desk.path("cat.bin");
    ok(&["convert", &cat, &bin, "--to", "authors"]);
    let categories = ["--category", "dog", "--category", "cat"];
    let (_, err) = both(&[&["merge", &dog, &bin, "-o", &both_][..], &categories].concat());
    assert!(err.contains("<new1> dog (dog) and <new2> cat (cat)"), "{err}");
    assert!(err.contains("<new1> is what <dog-toy> is in"), "{err}");
    assert!(err.contains("<new2> is what <tabby> is in"), "{err}");
}

#[test]
fn tokens_of_a_checkpoint_are_not_shown_to_clip() {
    let desk = Desk::new();
    let own = desk.path("own");
    checkpoint("dogtoy", 1).save(Path::new(&own)).unwrap();
    let (folder, targets) = (desk.path("out"), desk.photos("targets"));
    desk.photos("out/samples");
    let prompts = r#"{"a": "photo of a dogtoy dog"}"#;
    std::fs::write(desk.path("out/prompts.json"), prompts).unwrap();
    let evaluate = ["evaluate", &folder, "--targets", &targets];
    // the protocol knows what CLIP was shown
    let protocol = |more: &[&str]| {
        let (_, err) = both(&[&evaluate[..], more].concat());
        err.lines().find(|line| line.starts_with("evaluation: ")).unwrap().to_owned()
    };
    let named = protocol(&["--token", "dogtoy"]);
    assert_ne!(protocol(&[]), named);
    assert_eq!(protocol(&["--checkpoint", &own]), named);
}

#[test]
fn a_row_is_a_folder_of_checkpoints() {
    let desk = Desk::new();
    let (own, bin) = (desk.path("ours/dog_plum"), desk.path("theirs/dog_plum-0.bin"));
    checkpoint("<dog-toy>", 1).save(Path::new(&own)).unwrap();
    ok(&["convert", &own, &bin, "--to", "authors"]);
    let experiment = desk.path("a.toml");
    let write = |rows: &str| {
        let text = format!(
            "name = \"a\"\ntitle = \"A\"\nmetrics = [\"text-alignment\", \"image-alignment\"]\n{rows}\n\
             [sampling]\nsteps = 2\n\
             [scales.default]\nconcepts = [\"dog_plum\"]\nprompts = 2\nimages = 1\nreal_images = 0\n"
        );
        std::fs::write(&experiment, text).unwrap();
    };
    let row = |label: &str, path: &str, more: &str| {
        format!(
            "[[rows]]\nmethod = \"checkpoint\"\nlabel = \"{label}\"\npath = \"{path}\"\n{more}\n"
        )
    };
    write(
        &[row("Ours", "ours/{concept}", ""), row("Theirs", "theirs/{concept}-{seed}.bin", "")]
            .concat(),
    );
    let (store, out) = (desk.path("store"), desk.path("report"));
    let run =
        ["run", &experiment, "--store", &store, "--out", &out, "--filter", "method=checkpoint"];
    let plan = ok(&[&run[..], &["--dry-run"]].concat());
    assert!(plan.contains("take Ours · dog_plum as <dog-toy> dog"), "{plan}");
    let table = ok(&run);
    assert!(table.contains("Ours") && table.contains("Theirs"), "{table}");
    // one content, one checkpoint, one folder of samples
    let folders = |kind: &str| std::fs::read_dir(Path::new(&store).join(kind)).unwrap().count();
    assert_eq!((folders("checkpoints"), folders("samples")), (1, 1));
    let samples = std::fs::read_dir(Path::new(&store).join("samples")).unwrap().next().unwrap();
    for path in files(&samples.unwrap().path(), "png") {
        let text = Png::read(&path).unwrap().text;
        let prompt = &text.iter().find(|(key, _)| key == "prompt").unwrap().1;
        assert!(prompt.contains("<dog-toy> dog"), "{prompt}");
    }
    assert!(ok(&[&run[..], &["--dry-run"]].concat()).contains("0 stages to run"));

    for (rows, wanted) in [
        (row("Lost", "nowhere/{concept}", ""), "nowhere/dog_plum"),
        (row("Trained", "ours/{concept}", "settings = { lr = 1.0 }"), "no setting `lr`"),
        (row("Bare", "", ""), "no weights"),
    ] {
        write(&rows);
        let output = desk::cdbench(&[&run[..], &["--dry-run"]].concat());
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && err.contains(wanted), "{wanted}: {err}");
    }
    // of another backbone: known before anything runs
    let mut rng = Rng::new(1, "foreign");
    let mut random = |shape: &[usize]| rng.normal(shape, &Device::Cpu).unwrap();
    let layer = "unet.down_blocks.3.attentions.1.proj_in.weight";
    let factors = cdbench::methods::Factors::new(random(&[4, 1]), random(&[1, 4])).unwrap();
    let foreign = Delta::default().with_factors([(layer.to_owned(), factors)].into());
    foreign.save(Path::new(&desk.path("foreign"))).unwrap();
    write(&row("Foreign", "foreign", ""));
    let said = refused(&[&run[..], &["--dry-run"]].concat());
    assert!(said.contains("lacks 1 of the 1 weights") && said.contains(layer), "{said}");
}
