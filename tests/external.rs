//! Programs of others as rows of an experiment: what they are told, what is taken from them, and what is said
//! when they do otherwise. They are shell scripts here.
#![cfg(unix)]

mod desk;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use desk::{Desk, both, cdbench, ends, ok};

/// A sampler: a picture for each file that it is asked for, but as `$how` says; it notes how many it was
/// asked for.
const SAMPLER: &str = r#"#!/bin/sh
prompts=$1; out=$2; how=$3; grep -c '"file"' "$prompts" >> asked.txt
sed -n 's/.*"file": "\(.*\)".*/\1/p' "$prompts" | sort | while read file; do
  cp "${how}.png" "$out/$file"
  if test "$how" = half; then exit 0; fi
done
"#;

struct Lab {
    desk: Desk,
}

impl Lab {
    /// An experiment with these rows on one concept and two prompts.
    fn new(rows: &str) -> Lab {
        let lab = Lab { desk: Desk::new() };
        let folder = lab.desk.dir.path();
        lab.write(rows);
        fs::write(folder.join("sample.sh"), SAMPLER).unwrap();
        let picture = |name: &str, side: u32| {
            let image =
                image::RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8, 90, y as u8]));
            image.save(folder.join(name)).unwrap();
        };
        picture("good.png", 64);
        picture("half.png", 64);
        picture("small.png", 32);
        fs::write(folder.join("text.png"), "not a picture").unwrap();
        lab
    }

    fn write(&self, rows: &str) {
        self.write_with("image-alignment", rows);
    }

    fn write_with(&self, metric: &str, rows: &str) {
        let text = format!(
            "name = \"lab\"\ntitle = \"a lab\"\nmetrics = [\"{metric}\"]\nsampling = {{ steps = 2 }}\n\
             {rows}\n[scales.default]\nconcepts = [\"dog_plum\"]\nprompts = 3\nimages = 2\n"
        );
        fs::write(self.desk.path("lab.toml"), text).unwrap();
    }

    fn args(&self) -> [String; 4] {
        ["run".into(), self.desk.path("lab.toml"), "--store".into(), self.desk.path("store")]
    }

    fn with<'a>(args: &'a [String; 4], more: &[&'a str]) -> Vec<&'a str> {
        args.iter().map(String::as_str).chain(more.iter().copied()).collect()
    }

    #[track_caller]
    fn run(&self, more: &[&str]) -> String {
        ok(&Lab::with(&self.args(), more))
    }

    /// What stderr says of a run whose own row fails, and whose anchors do not.
    #[track_caller]
    fn fails(&self, more: &[&str]) -> String {
        ends(&Lab::with(&self.args(), more), 7)
    }

    fn asked(&self) -> Vec<usize> {
        let text = fs::read_to_string(self.desk.path("asked.txt")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// The row's line of results.csv, as a map.
    fn result(&self, column: &str) -> String {
        let text = fs::read_to_string(self.desk.path("store/reports/lab/default/results.csv"));
        let text = text.unwrap();
        let mut rows = csv::Reader::from_reader(text.as_bytes());
        let at = rows.headers().unwrap().iter().position(|name| name == column);
        let at = at.unwrap_or_else(|| panic!("no {column} in {text}"));
        let own = rows.records().map(|r| r.unwrap());
        let own = own.filter(|r| r.iter().any(|field| field == "command")).last().unwrap();
        own[at].to_owned()
    }
}

fn sampler(how: &str) -> String {
    format!(
        "[[rows]]\nmethod = \"command\"\nlabel = \"Theirs\"\nversion = \"1\"\n\
         sample = [\"sh\", \"sample.sh\", \"{{prompts}}\", \"{{out}}\", \"{{how}}\"]\n\
         settings = {{ how = \"{how}\" }}\n"
    )
}

#[test]
fn a_sampler_is_asked_once_for_images_that_are_judged_like_ours() {
    let lab = Lab::new(&sampler("good"));
    let table = lab.run(&[]);
    assert!(table.contains("Theirs") && table.contains("Pretrained"), "{table}");
    assert_eq!(lab.asked(), [6]);
    // its picture six times, under the names of ours and with our text in it
    let text = fs::read_to_string(lab.desk.path("store/reports/lab/default/images.csv")).unwrap();
    let file = text.split(',').find(|field| field.starts_with("samples/")).unwrap();
    assert!(file.ends_with(".png"), "{file}");
    // the same again, and with another limit in time, is there; another version and a larger scale are not
    lab.run(&[]);
    lab.write(&sampler("good").replace("version = \"1\"", "version = \"1\"\ntimeout = 60"));
    lab.run(&[]);
    assert_eq!(lab.asked(), [6]);
    lab.run(&["--set", "scales.default.images=3"]);
    assert_eq!(lab.asked(), [6, 3], "the images that are there already are not asked for");
    lab.write(&sampler("good").replace("version = \"1\"", "version_command = [\"echo\", \"2\"]"));
    lab.run(&[]);
    assert_eq!(lab.asked(), [6, 3, 6]);
    // the page says what makes an image again that no sampler of ours made
    let page = fs::read_to_string(lab.desk.path("store/reports/lab/default/page/data.js")).unwrap();
    let data = page.split_once("window.cdbench = ").unwrap().1.trim_end().trim_end_matches(';');
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    let origins = data["samples"]["origins"].as_array().unwrap();
    let of = |what: &str| {
        let found = origins.iter().find(|o| o[0].as_str().unwrap().contains(what));
        found.unwrap_or_else(|| panic!("{what}: {origins:?}"))[1].as_str().unwrap().to_owned()
    };
    assert!(of("renderer").contains("--filter 'label=Rendered truth'"), "{}", of("renderer"));
    assert!(of("the backbone as it is").starts_with("cdbench sample --backbone mini "));
    let again = of("a program of others");
    assert!(again.contains("--filter label=Theirs --filter concept=dog_plum --filter seed=0"));
    let sample = fs::read_to_string(lab.desk.path("store/reports/lab/default/images.csv")).unwrap();
    let cell = lab.result("cell");
    let sample = sample.lines().find(|line| line.starts_with(&cell)).unwrap().to_owned();
    let sample = sample.split(',').find(|field| field.starts_with("samples/")).unwrap().to_owned();
    let sample = lab.desk.path(&format!("store/{sample}"));
    fs::remove_file(&sample).unwrap();
    let words: Vec<&str> = again.split(' ').skip(1).collect();
    ok(&words);
    assert!(Path::new(&sample).exists());
    assert_eq!(lab.asked(), [6, 3, 6, 1]);
    // a script is an input whether the row says so or not
    fs::write(lab.desk.path("sample.sh"), format!("{SAMPLER}# changed\n")).unwrap();
    lab.run(&[]);
    assert_eq!(lab.asked(), [6, 3, 6, 1, 6]);
}

#[test]
fn what_a_sampler_leaves_out_or_spoils_is_said_and_the_rest_is_kept() {
    for (how, wanted) in [
        ("half", "of 6 images 5 are not as they were asked for"),
        ("small", "32×32 pixels, not 64×64"),
        ("text", "is no PNG"),
        ("none", "of 6 images 6"),
    ] {
        let lab = Lab::new(&sampler(how));
        let err = lab.fails(&[]);
        assert!(err.contains(wanted) && err.contains("1 of 5 cells"), "{how}: {err}");
    }
    // the one that was made is not asked for again
    let lab = Lab::new(&sampler("half"));
    lab.fails(&[]);
    lab.fails(&[]);
    assert_eq!(lab.asked(), [6, 5]);
}

#[test]
fn programs_that_fail_hang_or_are_not_there() {
    let row = |args: &str| {
        format!("[[rows]]\nmethod = \"command\"\ntrain = [{args}, \"{{out}}\"]\ntimeout = 20\n")
    };
    let script = "\"sh\", \"-c\", \"echo it is the weather >&2; exit 9\"";
    let lab = Lab::new(&row(script));
    let err = lab.fails(&[]);
    assert!(err.contains("exit code 9") && err.contains("it is the weather"), "{err}");
    lab.write(&row("\"sh\", \"-c\", \"sleep 300\"").replace("20", "1"));
    let start = Instant::now();
    let err = lab.fails(&[]);
    assert!(err.contains("no end after 1 s") && err.contains("`timeout`"), "{err}");
    assert!(start.elapsed() < Duration::from_secs(200));
    lab.write(&row("\"no-such-trainer\""));
    assert!(lab.fails(&[]).contains("there is no program `no-such-trainer`"));
    lab.write(&row("\"true\""));
    assert!(lab.fails(&[]).contains("left nothing in {out}"));
    lab.write(&row("\"sh\", \"-c\", \"echo x > $0/a.txt\""));
    assert!(lab.fails(&[]).contains("what the program left in {out}"));
    // what can be known is said before anything runs
    for (row, wanted) in [
        (row("\"x\", \"{prompts}\""), "{prompts}"),
        (row("\"x\"").replace("timeout = 20", "inputs = [\"none.py\"]"), "none.py"),
        (
            row("\"x\"").replace("timeout = 20", "version_command = [\"false\"]"),
            "`version_command`",
        ),
        (row("\"x\"").replace("timeout = 20", "version_command = [\"true\"]"), "prints nothing"),
    ] {
        lab.write(&row);
        let err = ends(&Lab::with(&lab.args(), &[]), 3);
        assert!(err.contains(wanted), "{err}");
    }
}

#[test]
fn a_trainer_writes_a_checkpoint_that_we_read_or_one_for_its_own_sampler() {
    let lab = Lab::new("");
    let desk = &lab.desk;
    let (ours, store) = (desk.path("ours"), desk.path("store"));
    ok(&desk.train("textual-inversion", "dog_plum", &ours, &store));
    // it takes a while and some memory, and says what it was told
    let script = "cp ours/*.safetensors \"$2\"; cp \"$1\" told.json; ls \"$4\" > backbone.txt; \
        x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 1; echo \"$3 ${{#x}}\" > seen.txt";
    let trainer = format!(
        "[[rows]]\nmethod = \"command\"\nsettings = {{ modifier_token = \"category\", steps = 40 }}\n\
         train = [\"sh\", \"-c\", '''{script}''', \"x\", \"{{concepts}}\", \"{{out}}\", \"{{steps}} {{seed}}\", \"{{backbone}}\"]\n"
    );
    lab.write(&trainer);
    lab.run(&["--set", "scales.default.train_steps=0.5"]);
    let told: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(desk.path("told.json")).unwrap()).unwrap();
    let concept = &told["concepts"][0];
    assert_eq!((&told["contract"], &told["size"]), (&1.into(), &serde_json::json!([64, 64])));
    assert_eq!((&concept["category"], &concept["token"]), (&"dog".into(), &"<new1>".into()));
    assert_eq!(
        (&concept["phrase"], &concept["caption"]),
        (&"<new1>".into(), &"photo of a <new1>".into())
    );
    assert!(concept["images"].as_str().unwrap().ends_with("images/dog_plum"));
    assert_eq!(fs::read_to_string(desk.path("seen.txt")).unwrap().trim(), "20 0 20000000");
    assert!(fs::read_to_string(desk.path("backbone.txt")).unwrap().contains("unet"));
    // measured as ours are
    assert_eq!(lab.result("steps"), "20");
    let peak: f64 = lab.result("peak_mb").parse().unwrap();
    assert!((15.0..400.0).contains(&peak), "{peak} MB of the shell, not of this program");

    // another token than the one it was told of
    fs::remove_file(desk.path("ours/<new1>.safetensors")).unwrap();
    let row = Tensor::zeros((1, 128), DType::F32, &Device::Cpu).unwrap();
    let other = desk.path("ours/x.safetensors");
    candle_core::safetensors::save(&[("<new7>", row)].into(), other).unwrap();
    lab.write(&trainer.replace("steps = 40", "steps = 41"));
    let err = lab.fails(&[]);
    assert!(err.contains("has no token `<new1>`, but <new7>"), "{err}");

    // a checkpoint of any kind, for its own sampler
    let both_of = "[[rows]]\nmethod = \"command\"\n\
        train = [\"sh\", \"-c\", \"mkdir $0/deep; echo weights > $0/deep/w\", \"{out}\"]\n\
        sample = [\"sh\", \"-c\", \"grep -q weights $2/deep/w && sh sample.sh $0 $1 good\", \"{prompts}\", \"{out}\", \"{checkpoint}\"]\n";
    lab.write(both_of);
    lab.run(&[]);
    assert_eq!(lab.asked(), [6]);
}

#[test]
fn ctrl_c_ends_the_program_and_all_that_it_started() {
    let row = "[[rows]]\nmethod = \"command\"\ntrain = [\"sh\", \"-c\", \
        \"(sleep 300 & echo $! > child; wait) & wait\", \"{out}\"]\n";
    let lab = Lab::new(row);
    let args = lab.args();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cdbench"));
    let mut run = command.args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let child = lab.desk.path("child");
    let start = Instant::now();
    let pid = loop {
        assert!(start.elapsed() < Duration::from_secs(120), "it never began");
        match fs::read_to_string(&child) {
            Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let state = fs::read_to_string(format!("/proc/{pid}/stat"));
    assert!(!state.is_ok_and(|state| !state.contains(") Z ")), "{pid} is still there");
}

/// A measure that says the numbers of the images, or what `$3` says. It notes each time that it runs.
const MEASURE: &str = r#"#!/bin/sh
echo "$3" >> ran.txt; cp "$1" told.json
n=$(grep -c '"file"' "$1")
case $3 in
  each) seq -s, 1 "$n" | sed 's/.*/{"values": [&]}/' > "$2" ;;
  few) echo '{"values": [1]}' > "$2" ;;
  set) echo '{"value": 0.25, "se": 0.125}' > "$2" ;;
  text) echo 'nothing' > "$2" ;;
  nan) echo '{"value": 1e999}' > "$2" ;;
  none) ;;
  bad) echo 'out of luck' >&2; exit 4 ;;
esac
"#;

/// A measure that a program takes, with more keys.
fn measured(how: &str, more: &str) -> String {
    format!(
        "[measures.seen]\ncommand = [\"sh\", \"measure.sh\", \"{{images}}\", \"{{out}}\", \"{{how}}\"]\n\
         better = \"more\"\nsettings = {{ how = \"{how}\" }}\n{more}\n{}",
        sampler("good")
    )
}

impl Lab {
    fn of_measure(how: &str, more: &str) -> Lab {
        let lab = Lab::new("");
        fs::write(lab.desk.path("measure.sh"), MEASURE).unwrap();
        lab.write_with("seen", &measured(how, more));
        lab
    }

    fn told(&self) -> serde_json::Value {
        let text = fs::read_to_string(self.desk.path("told.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn ran(&self) -> usize {
        fs::read_to_string(self.desk.path("ran.txt")).map_or(0, |text| text.lines().count())
    }
}

#[test]
fn a_program_measures_each_image_or_all_and_is_asked_once() {
    let lab = Lab::of_measure("each", "of = \"prompts\"\ntitle = \"What is seen\"");
    let table = lab.run(&[]);
    assert!(table.contains("What is seen"), "{table}");
    let told = lab.told();
    let images = told["images"].as_array().unwrap();
    assert!(images[0]["prompt"].as_str().unwrap().contains("dog"), "{told}");
    assert!(!told.to_string().contains("<new1>"), "a prompt is told without its tokens");
    assert!(images.iter().all(|i| Path::new(i["file"].as_str().unwrap()).is_absolute()));
    // six images have the values 1 to 6
    let mean: f64 = lab.result("seen").parse().unwrap();
    assert!((mean - 3.5).abs() < 1e-9, "{mean}");
    let asked = lab.ran();
    // another title is no other measure, and another metric beside it asks for no image again
    lab.write_with("seen", &measured("each", "of = \"prompts\"\ntitle = \"Seen\""));
    assert!(lab.run(&[]).contains("Seen"));
    lab.write_with("seen\", \"image-alignment", &measured("each", "of = \"prompts\""));
    lab.run(&[]);
    assert_eq!(lab.ran(), asked);
    // another script is another measure
    fs::write(lab.desk.path("measure.sh"), format!("{MEASURE}# changed\n")).unwrap();
    lab.run(&[]);
    assert!(lab.ran() > asked);

    let lab =
        Lab::of_measure("set", "of = \"all-targets\"\ngives = \"set\"\nscale = 100\nunit = \"%\"");
    assert!(lab.run(&[]).contains("25.000"));
    let told = lab.told();
    let against = told["against"].as_array().unwrap();
    assert!(against.iter().all(|path| path.as_str().unwrap().contains("dog_plum")), "{told}");
    assert_eq!(against.len(), 8, "the concept's targets");
}

#[test]
fn a_measure_that_says_something_else_is_a_failed_cell() {
    for (how, more, wanted) in [
        ("few", "", "1 values of"),
        ("set", "", "a value of the set"),
        ("each", "gives = \"set\"", "values of images"),
        ("text", "", "what the program left in {out}"),
        ("nan", "gives = \"set\"", "what the program left in {out}"),
        ("none", "", "left no {out}"),
        ("bad", "", "out of luck"),
    ] {
        let lab = Lab::of_measure(how, more);
        let err = ends(&Lab::with(&lab.args(), &[]), 7);
        assert!(err.contains(wanted) && err.contains("`measures.seen`"), "{how}: {err}");
    }
    // what can be known is said before anything runs
    let known = measured("each", "");
    for (text, wanted) in [
        (known.replace("{out}", "out"), "no argument of `sh` has {out}"),
        (known.replace("{how}", "{hou}"), "{hou}"),
        (known.replace("better = \"more\"", ""), "missing field `better`"),
        (
            known.replace("\"more\"\n", "\"more\"\nof = \"weights\"\n"),
            "a program is given pictures",
        ),
        (
            known.replace("\"more\"\n", "\"more\"\nof = \"targets\"\ngives = \"set\"\n"),
            "several values",
        ),
        (known.replace("\"more\"\n", "\"more\"\nscale = 0\n"), "`scale`"),
        (known.replace("measures.seen", "measures.kid"), "there is a measure `kid` already"),
    ] {
        let lab = Lab::of_measure("each", "");
        lab.write_with("seen", &text);
        let err = ends(&Lab::with(&lab.args(), &[]), 3);
        assert!(err.contains(wanted), "{text}: {err}");
    }
    let lab = Lab::of_measure("each", "");
    lab.write_with("seen@dino", &known);
    assert!(ends(&Lab::with(&lab.args(), &[]), 3).contains("has no extractor"));
}

#[test]
fn a_folder_is_measured_by_a_program() {
    let lab = Lab::of_measure("each", "");
    let folder = lab.desk.path("out");
    fs::create_dir_all(format!("{folder}/samples")).unwrap();
    fs::copy(lab.desk.path("good.png"), format!("{folder}/samples/0.png")).unwrap();
    fs::write(format!("{folder}/prompts.json"), "{\"0\": \"photo of a <new1> dog\"}").unwrap();
    let measures = measured("each", "of = \"prompts\"");
    let measures = measures.split("[[rows]]").next().unwrap();
    fs::write(lab.desk.path("measures.toml"), measures).unwrap();
    let asked =
        ["--metrics", "seen", "--measures", &lab.desk.path("measures.toml")].map(String::from);
    let mut args = vec!["evaluate", folder.as_str()];
    args.extend(asked.iter().map(String::as_str));
    let table = ok(&args);
    assert!(table.lines().any(|line| line.starts_with("seen\t1.0000\t")), "{table}");
    assert_eq!(lab.told()["images"][0]["prompt"], "photo of a dog");
}

#[test]
fn train_and_help_know_that_the_row_says_what_runs() {
    let desk = Desk::new();
    let out = desk.path("x");
    let output = cdbench(&["train", "command", "--concept", "dog_plum", "-o", &out]);
    assert_eq!(output.status.code(), Some(3));
    let (out, _) = both(&["train", "--help"]);
    assert!(out.contains("--concept"));
}

#[test]
fn the_documents_example_works() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/external-methods.md"))
        .unwrap();
    let example = page.split("## A complete example").nth(1).unwrap();
    let block = |language: &str| {
        let start = format!("```{language}\n");
        example.split(&start).nth(1).and_then(|rest| rest.split("```").next()).unwrap().to_owned()
    };
    let desk = Desk::new();
    fs::write(desk.path("copies.sh"), block("sh")).unwrap();
    fs::write(desk.path("copies.toml"), block("toml")).unwrap();
    let table = ok(&["run", &desk.path("copies.toml"), "--store", &desk.path("store")]);
    let row =
        table.lines().find(|line| line.contains("Copies ") && !line.contains("training")).unwrap();
    assert!(row.contains("1.000"), "a copy is its own nearest picture: {table}");
}
