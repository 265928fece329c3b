//! The commands on single checkpoints and folders, one after another as a person would use them.

mod desk;

use std::path::Path;

use desk::{Desk, cdbench, files, ok, refused};

#[test]
fn checkpoints_are_trained_merged_sampled_and_evaluated() {
    let desk = Desk::new();
    let [dog, cat, both, store] = ["dog", "cat", "both", "store"].map(|name| desk.path(name));
    ok(&desk.train("custom-diffusion", "dog_plum", &dog, &store));
    ok(&desk.train("custom-diffusion", "cat_mint", &cat, &store));
    // the same again is the same
    let weights = || {
        files(Path::new(&dog), "safetensors")
            .iter()
            .map(|f| std::fs::read(f).unwrap())
            .collect::<Vec<_>>()
    };
    let first = weights();
    ok(&desk.train("custom-diffusion", "dog_plum", &dog, &store));
    assert!(first.len() == 2 && weights() == first);
    // weights of another method are not mixed in
    let err = refused(&desk.train("textual-inversion", "dog_plum", &dog, &store));
    assert!(err.contains("another checkpoint is here, custom-diffusion of <new1> dog"), "{err}");
    assert!(weights() == first);

    ok(&["merge", &dog, &cat, "--category", "dog", "--category", "cat", "-o", &both]);
    assert_eq!(files(Path::new(&both), "safetensors").len(), 3);
    let err = refused(&["merge", &dog, &cat, "--category", "dog", "-o", &both]);
    assert!(err.contains("--category"), "{err}");

    let samples = desk.path("out/samples");
    let prompt = "photo of a <new1> dog next to a <new2> cat";
    let sampled =
        ["sample", "--checkpoint", &both, "--prompt", prompt, "--num", "3", "-o", &samples];
    ok(&[&sampled[..], &["--steps", "2", "--scheduler", "ddim"]].concat());
    let images = files(Path::new(&samples), "png");
    assert_eq!(images.len(), 3);

    // prompts as CustomConcept101's evaluation has them, and by whole names
    let evaluate = |name: &dyn Fn(&Path) -> String| {
        let prompts: serde_json::Map<String, serde_json::Value> =
            images.iter().map(|i| (name(i), prompt.into())).collect();
        let text = serde_json::to_string(&prompts).unwrap();
        std::fs::write(desk.path("out/prompts.json"), text).unwrap();
        let (folder, targets) = (desk.path("out"), samples.clone());
        ok(&["evaluate", &folder, "--targets", &targets, "--real", &targets])
    };
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap().to_string_lossy().into_owned();
    let table = evaluate(&|path| text(path.file_stem()));
    assert_eq!(table, evaluate(&|path| text(path.file_name())));
    for metric in ["text alignment", "image alignment", "KID"] {
        assert!(table.contains(metric), "{table}");
    }
    // the same work has the same protocol, whatever its folder is called; other targets have another
    let protocol = |targets: &str, more: &[&str]| {
        let folder = desk.path("out");
        let args = [&["evaluate", &folder, "--targets", targets], more].concat();
        let output = cdbench(&args);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = err.lines().find(|l| l.starts_with("evaluation: ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{err}"))
    };
    let (again, fewer) = (desk.path("again"), desk.path("fewer"));
    for (folder, files) in [(&again, &images[..]), (&fewer, &images[..2])] {
        std::fs::create_dir(folder).unwrap();
        for file in files {
            std::fs::copy(file, Path::new(folder).join(file.file_name().unwrap())).unwrap();
        }
    }
    let own = protocol(&samples, &[]);
    assert_eq!(own, protocol(&again, &[]));
    assert_ne!(own, protocol(&fewer, &[]));
    assert_ne!(own, protocol(&samples, &["--metrics", "image-alignment"]));
    let err = refused(&["evaluate", &desk.path("out"), "--metrics", "kid"]);
    assert!(err.contains("--real"), "{err}");
    let err = refused(&["evaluate", &desk.path("out"), "--metrics", "diversity@dinov2"]);
    assert!(err.contains("--extractor dinov2=DIR") && err.contains("facebook/dinov2"), "{err}");

    std::fs::write(desk.path("out/prompts.json"), r#"{"other": "a dog"}"#).unwrap();
    let err = refused(&["evaluate", &desk.path("out"), "--targets", &samples]);
    assert!(err.contains("no prompt for samples/"), "{err}");
}

#[test]
fn a_folder_of_photographs_is_trained_on() {
    let desk = Desk::new();
    let photos = desk.dir.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    image::RgbImage::from_pixel(70, 50, image::Rgb([200, 30, 90]))
        .save(photos.join("a.png"))
        .unwrap();
    let (concept, out, store) =
        (format!("{}:cat", photos.display()), desk.path("cat"), desk.path("store"));
    ok(&desk.train("custom-diffusion", &concept, &out, &store));
    assert_eq!(files(Path::new(&out), "safetensors").len(), 2);
}
