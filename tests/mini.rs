//! The embedded model from outside: it is there without any set-up, and can be taken out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use assert_cmd::Command;

fn cdbench(cache: &Path, args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("cdbench").unwrap();
    command.args(args).env("CDBENCH_CACHE", cache).env("HF_HUB_OFFLINE", "1");
    command
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    found.insert(name, fs::read(path).unwrap());
                }
            }
        }
    }
    found
}

#[test]
fn is_the_default_and_what_is_exported_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let export = dir.path().join("out");
    let export = export.to_str().unwrap();
    let sample = |backbone: &[&str], name: &str| {
        let out = dir.path().join(name);
        let mut args = vec!["sample", "--prompt", "photo of a dog", "--steps", "2", "-o"];
        args.push(out.to_str().unwrap());
        args.extend(backbone);
        cdbench(&cache, &args).assert().success();
        image::open(out).unwrap().into_rgb8()
    };
    let embedded = sample(&[], "a.png");
    assert_eq!(embedded.dimensions(), (64, 64));
    let cached: Vec<_> = fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(cached.len(), 1, "one folder, named after its contents: {cached:?}");

    cdbench(&cache, &["export", "mini", export]).assert().success().stdout(format!("{export}\n"));
    let mut exported = files(Path::new(export));
    let card = exported.remove("README.md").expect("a model card is beside it");
    assert!(String::from_utf8(card).unwrap().starts_with("---\n"));
    assert!(exported == files(&cached[0]));
    assert!(exported.contains_key("model_index.json") && exported.contains_key("clip/config.json"));
    assert_eq!(sample(&["--backbone", export], "b.png"), embedded);

    // a damaged cache is no reason for a damaged picture
    fs::write(cached[0].join("vae/config.json"), "{}").unwrap();
    fs::remove_dir_all(cached[0].join("tokenizer")).unwrap();
    assert_eq!(sample(&["--backbone", "mini"], "c.png"), embedded);
    assert!(exported == files(&cached[0]));
}

#[test]
fn exports_over_nothing_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "years of work").unwrap();
    let name = out.to_str().unwrap();
    let output = cdbench(dir.path(), &["export", "mini", name]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("--force") && output.stdout.is_empty(), "{stderr}");
    assert_eq!(files(&out).len(), 1);
    cdbench(dir.path(), &["export", "mini", name, "--force"]).assert().success();
    assert!(files(&out).len() > 10 && out.join("thesis.tex").is_file());
    // what is no backbone, and no word that is compiled in
    let missing = dir.path().join("none").display().to_string();
    cdbench(dir.path(), &["export", "sd15", &missing]).assert().code(3);
}

#[test]
fn processes_that_start_together_share_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    std::thread::scope(|scope| {
        for i in 0..3 {
            let (cache, out) = (&cache, dir.path().join(format!("{i}.png")));
            scope.spawn(move || {
                let out = out.to_str().unwrap();
                let args = ["sample", "--prompt", "a cat", "--steps", "1", "-o", out];
                cdbench(cache, &args).assert().success();
            });
        }
    });
    let pictures = [0, 1, 2].map(|i| image::open(dir.path().join(format!("{i}.png"))).unwrap());
    assert!(pictures[0] == pictures[1] && pictures[1] == pictures[2]);
    let folder = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    assert!(files(&folder).keys().all(|name| !name.ends_with(".tmp")));
}
