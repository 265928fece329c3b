//! The preference study: what raters are shown, and what their answers give.

mod asked;

use std::collections::HashSet;
use std::path::Path;

use asked::{Person, answer, answers, options, results, study, study_of};
use cdbench::Result;
use cdbench::report::{Markdown, export};
use cdbench::rng::Rng;
use cdbench::study::{
    Analysis, Answer, Collected, Key, Options, Question, Reason, Rules, Side, What, analyze, tables,
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn page(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("page/index.html")).unwrap()
}

/// What the page knows.
fn shown(folder: &Path) -> serde_json::Value {
    let text = page(folder);
    let json = text.split_once(r#"<script id="study" type="application/json">"#).unwrap().1;
    serde_json::from_str(json.split_once("</script>").unwrap().0).unwrap()
}

fn names(folder: &Path) -> HashSet<String> {
    let images = std::fs::read_dir(folder.join("page/images")).unwrap();
    images.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn raters_see_pairs_and_no_method() {
    let dir = folder();
    let made = study(dir.path(), &options());
    assert!(made.notes.is_empty(), "{:?}", made.notes);
    let (text, names) = (page(dir.path()), names(dir.path()));
    let crowd = std::fs::read_to_string(dir.path().join("crowd.csv")).unwrap();
    let visible = format!("{text}{crowd}{names:?}").to_lowercase();
    for cell in results().cells.iter().filter(|c| !c.anchor) {
        for secret in [&cell.label, &cell.method, &cell.id] {
            // "joint" and the like would be words of their own
            assert!(!visible.contains(&secret.to_lowercase()), "{secret}");
        }
    }
    assert!(!visible.contains("custom") && !visible.contains("samples/"));

    let page = shown(dir.path());
    let mut used = HashSet::new();
    let name = |v: &serde_json::Value| format!("{}.png", v.as_str().unwrap());
    for (booklet, key) in page["booklets"].as_array().unwrap().iter().zip(&made.key.booklets) {
        for (trial, known) in booklet.as_array().unwrap().iter().zip(key) {
            assert_eq!(trial["id"], known.id.as_str());
            assert_eq!(trial["practice"], known.what == What::Practice);
            let keys: Vec<&String> = trial.as_object().unwrap().keys().collect();
            assert_eq!(keys.len(), 6, "{keys:?}");
            let (left, right) = (name(&trial["left"]), name(&trial["right"]));
            assert_ne!(left, right);
            used.extend([left, right]);
        }
    }
    for set in page["sets"].as_array().unwrap() {
        used.extend(set["images"].as_array().unwrap().iter().map(name));
    }
    assert_eq!(used, names, "every image is used, and every one that is used is there");
    // nothing but the pixels: no text that says what an image is of
    for name in &names {
        let bytes = std::fs::read(dir.path().join("page/images").join(name)).unwrap();
        assert!(!bytes.windows(4).any(|w| w == b"tEXt" || w == b"iTXt" || w == b"zTXt"));
    }
    // sides are as often one as the other, and a line of the crowd's file is a trial
    let trials = || made.key.booklets.iter().flatten();
    let own =
        |side| trials().filter(|t| matches!(t.what, What::Pair { own, .. } if own == side)).count();
    assert_eq!(own(Side::Left), own(Side::Right));
    let counted = trials().filter(|t| t.what != What::Practice).count();
    assert_eq!(csv::Reader::from_reader(crowd.as_bytes()).records().count(), counted);
    let read = Key::read(dir.path()).unwrap();
    assert!(read.study == made.key.study && read.booklets == made.key.booklets);
}

#[test]
fn the_same_seed_is_the_same_study_and_another_is_kept_out() {
    let (a, b) = (folder(), folder());
    let first = study(a.path(), &options());
    let same = study(b.path(), &options());
    assert_eq!((first.key.clone(), page(a.path())), (same.key, page(b.path())));
    // made again over itself
    study(a.path(), &options());
    let category = |c: &str| c.to_owned();
    let other = Options { seed: 1, ..options() };
    let error = cdbench::study::make(&results(), &asked::Drawn, &category, &other, a.path());
    let error = error.err().unwrap();
    assert!(error.to_string().contains("another study"), "{error}");
    assert_eq!(Key::read(a.path()).unwrap().study, first.key.study, "nothing was touched");
    assert_eq!(std::fs::read_dir(a.path()).unwrap().count(), 3);

    let mut none = results();
    none.study = vec!["nobody".into()];
    let error = cdbench::study::make(&none, &asked::Drawn, &category, &options(), b.path());
    assert!(error.err().unwrap().hint().unwrap().contains("study ="));
}

#[test]
fn a_key_that_was_changed_is_refused() {
    let dir = folder();
    study(dir.path(), &options());
    let path = dir.path().join(Key::FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        (r#""own":"left""#, r#""own":"right""#),
        (r#""version":1"#, r#""version":2"#),
        (r#""kind":"catch""#, r#""kind":"snatch""#),
        ("{", "["),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed, "{from}");
        std::fs::write(&path, changed).unwrap();
        let error = Key::read(dir.path()).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains("key.json"), "{error}");
    }
}

#[test]
fn prompts_of_html_and_files_with_quotes_stay_what_they_are() {
    let dir = folder();
    let place = dir.path().join("a \"study\" of 'us' & <them>");
    let evil = "</script><img src=x onerror=alert(1)> \"photo\", of a\n'dog' & {}";
    let mut results = results();
    for image in &mut results.images {
        image.text_prompt = evil.into();
        image.file = format!("samples/\"{}'.png", image.file);
    }
    let made = study_of(&results, &place, &options());
    assert_eq!(made.key.pairs[0].prompt, evil);
    assert!(!page(&place).contains("<img src=x"));
    let prompts = shown(&place)["booklets"].to_string();
    assert!(prompts.contains(r"</script><img src=x onerror=alert(1)>"));
    let crowd = std::fs::read_to_string(place.join("crowd.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(crowd.as_bytes());
    assert!(reader.records().any(|r| &r.unwrap()[2] == evil));
}

/// Everybody's answers, analysed.
fn analysis(key: &Key, people: &[Person], rng: &mut Rng) -> Analysis {
    let mut collected = Collected::new(key);
    for (i, person) in people.iter().enumerate() {
        let given = answers(key, &format!("rater {i}"), i % key.booklets.len(), person, rng);
        given.into_iter().for_each(|a| collected.add(a).unwrap());
    }
    analyze(&collected, &Rules::default())
}

/// `CDBENCH_SIMULATIONS=200 cargo test --release --test study simulated -- --nocapture` is the long form.
#[test]
fn simulated_raters_are_recovered() {
    let dir = folder();
    let key = study(dir.path(), &options()).key;
    let wanted = std::env::var("CDBENCH_SIMULATIONS").ok();
    let runs: usize = wanted.map_or(12, |n| n.parse().expect("CDBENCH_SIMULATIONS is a number"));
    let mut rng = Rng::new(1, "people");
    let (mut hold, mut of) = (0, 0);
    let (mut found, mut bad, mut wronged, mut honest) = (0, 0, 0, 0);
    let mut kept_mean = 0.0;
    let mut all_mean = 0.0;
    for _ in 0..runs {
        // everybody has a taste of their own around 60 %
        let mut people: Vec<Person> = (0..24)
            .map(|_| Person { taste: 0.6 + f64::from(rng.uniform(-0.15, 0.15)), ..Person::HONEST })
            .collect();
        people.extend([Person { careless: 1.0, ms: 1500, ..Person::HONEST }; 4]);
        people.extend([Person { left: 0.9, ..Person::HONEST }; 3]);
        people.push(Person { careless: 1.0, ms: 120, ..Person::HONEST });
        let analysis = analysis(&key, &people, &mut rng);
        for comparison in &analysis.comparisons {
            let share = comparison.kept.unwrap();
            let (low, high) = share.interval.unwrap();
            hold += usize::from(low <= 0.6 && 0.6 <= high);
            of += 1;
            kept_mean += share.share;
            all_mean += comparison.all.unwrap().share;
        }
        for i in 0..people.len() {
            let out = analysis.excluded.iter().any(|e| e.rater == format!("rater {i}"));
            match i < 24 {
                true => (wronged, honest) = (wronged + usize::from(out), honest + 1),
                false => (found, bad) = (found + usize::from(out), bad + 1),
            }
        }
        assert!(analysis.reasons[Reason::Fast.as_str()] >= 1);
    }
    let (kept_mean, all_mean) = (kept_mean / of as f64, all_mean / of as f64);
    println!(
        "{runs} simulations: {hold} of {of} intervals hold 60 %; mean {:.2} % of the kept, {:.2} % of all; \
         {found} of {bad} who did not look are left out, and {wronged} of {honest} others",
        100.0 * kept_mean,
        100.0 * all_mean
    );
    let share = hold as f64 / of as f64;
    // intervals of one simulation are of the same people: a few simulations say less
    let least = if runs < 100 { 0.9 } else { 0.935 };
    assert!(share > least && share < 0.99, "{hold} of {of}");
    assert!((kept_mean - 0.6).abs() < 0.015, "{kept_mean}");
    assert!(all_mean < 0.59, "who does not look draws to one half: {all_mean}");
    assert!(found as f64 > 0.9 * bad as f64, "{found} of {bad}");
    assert!((wronged as f64) < 0.02 * honest as f64, "{wronged} of {honest}");
}

#[test]
fn table_2_has_the_papers_layout() {
    let dir = folder();
    let key = study(dir.path(), &options()).key;
    let mut rng = Rng::new(3, "people");
    let people = vec![Person { taste: 0.8, ..Person::HONEST }; 12];
    let analysis = analysis(&key, &people, &mut rng);
    let text = export(&tables(&analysis)[..1], &Markdown);
    let line = |label: &str| -> Vec<&str> {
        let line = text.lines().find(|l| l.starts_with(&format!("| {label} |")));
        line.unwrap_or_else(|| panic!("{label}: {text}")).split('|').map(str::trim).collect()
    };
    let head = text.lines().find(|l| l.starts_with("|  |")).unwrap();
    assert!(head.contains("Textual Inversion: text | Textual Inversion: image"), "{head}");
    assert_eq!(line("the paper's Ours")[2], "72.62 ± 2.38");
    assert_eq!(line("the paper's Ours (Joint)")[3], "81.89 ± 2.09");
    let ours = line("Custom Diffusion")[2];
    assert!(ours.starts_with("**8") || ours.starts_with("**7"), "{ours}");
    // what was not compared has a dash
    let other = head.split('|').position(|c| c.contains("new") && c.contains("text")).unwrap();
    assert_eq!(line("Joint")[other], "–");
    // they all like the same, which is not what the metrics like
    let agreement = &analysis.agreement[0];
    assert!(agreement.repeats.unwrap().answers > 0 && agreement.alpha.is_some());
    assert!(agreement.metrics.values().flatten().count() >= 1);
    let json = serde_json::to_value(&analysis).unwrap();
    assert_eq!(json["comparisons"][0]["question"], "text");
}

#[test]
fn agreement_with_a_measure_is_found() {
    let dir = folder();
    let key = study(dir.path(), &options()).key;
    let mut collected = Collected::new(&key);
    for (rater, booklet) in (0..6).map(|i| (format!("r{i}"), i)) {
        for trial in &key.booklets[booklet] {
            for question in Question::ALL {
                // the measure decides about the text, and its opposite about the image
                let choice = match trial.what {
                    What::Pair { pair, own } | What::Repeat { pair, own } => {
                        let [a, b] = key.pairs[pair].values["text-alignment"];
                        let like = (a > b) == (question == Question::Text);
                        if like { own } else { own.turned() }
                    }
                    What::Catch { good } => good,
                    What::Practice => Side::Left,
                };
                let given = answer(&key, &rater, booklet, trial, question);
                collected.add(Answer { choice, ..given }.signed()).unwrap();
            }
        }
    }
    let analysis = analyze(&collected, &Rules::default());
    assert!(analysis.excluded.is_empty(), "{:?}", analysis.excluded);
    let [text, image] = &analysis.agreement[..] else { panic!("two questions") };
    assert_eq!(text.metrics["text-alignment"].unwrap().share, 1.0);
    assert_eq!(image.metrics["text-alignment"].unwrap().share, 0.0);
    assert_eq!((text.alpha, text.repeats.unwrap().share), (Some(1.0), 1.0));
}

/// Answers of a file.
fn read<'a>(key: &'a Key, dir: &Path, text: &str) -> Result<Collected<'a>> {
    let path = dir.join("it's \"the\" answers.csv");
    std::fs::write(&path, text).unwrap();
    let mut collected = Collected::new(key);
    collected.read(&path).map(|()| collected)
}

fn as_csv(answers: &[Answer]) -> String {
    let mut writer = csv::Writer::from_writer(vec![]);
    answers.iter().for_each(|a| writer.serialize(a).unwrap());
    String::from_utf8(writer.into_inner().unwrap()).unwrap()
}

#[test]
fn all_forms_of_answers_are_the_same_answers() {
    let dir = folder();
    let key = study(dir.path(), &options()).key;
    let mut given = answers(&key, "r", 2, &Person::HONEST, &mut Rng::new(1, "a"));
    for a in &mut given {
        a.name = "Ann, \"the\" Ümlaut <b>".into();
        *a = a.clone().signed();
    }
    let lines: String = given.iter().map(|a| serde_json::to_string(a).unwrap() + "\n").collect();
    let began = format!("{{\"began\":{{\"rater\":\"r\"}}}}\n{lines}{{\"study\":\"cut o");
    let forms = [as_csv(&given), serde_json::to_string(&given).unwrap(), lines, began];
    for text in &forms {
        let collected = read(&key, dir.path(), text).unwrap();
        assert_eq!(collected.votes.len(), given.len());
        assert_eq!((collected.raters.len(), collected.raters[0].edited), (1, 0));
        assert_eq!(collected.raters[0].name, given[0].name);
    }
    // as spreadsheets save it
    let marked = format!("\u{feff}{}", forms[0].replace('\n', "\r\n"));
    assert_eq!(read(&key, dir.path(), &marked).unwrap().votes.len(), given.len());

    // Mechanical Turk: single trials of any booklet, two answers a line
    let turk: String = key.booklets[0][2..5]
        .iter()
        .chain(&key.booklets[1][2..4])
        .map(|t| format!("x,W1,{},{},left,right\n", key.study, t.id))
        .collect();
    let head = "HITId,WorkerId,Input.study,Input.trial,Answer.text,Answer.image\n";
    let collected = read(&key, dir.path(), &format!("{head}{turk}")).unwrap();
    assert_eq!((collected.votes.len(), collected.raters[0].edited), (10, 0));
    let analysis = analyze(&collected, &Rules { catch: 0.0, ..Rules::default() });
    assert!(analysis.excluded.is_empty(), "{:?}", analysis.excluded);
}

#[test]
fn bad_answers_are_refused_or_leave_their_rater_out() {
    let (dir, other) = (folder(), folder());
    let key = study(dir.path(), &options()).key;
    let theirs = study(other.path(), &Options { seed: 9, ..options() }).key;
    let mut rng = Rng::new(1, "a");
    let given = answers(&key, "r", 2, &Person::HONEST, &mut rng);
    let refused = |text: &str| {
        let error = read(&key, dir.path(), text).err().unwrap();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains("the\" answers.csv"), "{error}");
        format!("{error} {}", error.hint().unwrap_or_default())
    };
    let foreign = answers(&theirs, "r", 2, &Person::HONEST, &mut rng);
    assert!(refused(&as_csv(&foreign)).contains("study"));
    // one of another study's answers, with this study's id
    let mut mixed = given.clone();
    mixed.push(Answer { study: key.study.clone(), ..foreign[0].clone() }.signed());
    assert!(refused(&as_csv(&mixed)).contains("no trial"));
    let csv = as_csv(&given);
    assert!(refused("").contains("no answer"));
    assert!(refused(&csv.replace("choice", "chosen")).contains("no column `choice`"));
    assert!(refused(&csv.replace(',', ";")).contains("commas"));
    assert!(refused(&csv.replacen(",text,", ",taste,", 1)).contains("line 2"));
    assert!(refused(&csv.replacen(",2500,", ",2.5s,", 1)).contains("`ms`"));
    assert!(refused("{\"no\": 1}\n{}\n").contains("line 1"));
    assert!(refused("[1, 2").contains("line 1"));

    // edited: the checksum tells, and so does the booklet
    let left_out = |given: Vec<Answer>| {
        let analysis =
            analyze(&read(&key, dir.path(), &as_csv(&given)).unwrap(), &Rules::default());
        let reasons = analysis.excluded.iter().map(|e| (e.rater.clone(), e.reasons.clone()));
        reasons.collect::<Vec<_>>()
    };
    assert!(left_out(given.clone()).is_empty());
    let edited = vec![("r".to_owned(), vec![Reason::Edited])];
    let mut changed = given.clone();
    changed[9].choice = changed[9].choice.turned();
    assert_eq!(left_out(changed), edited);
    let mut elsewhere = given.clone();
    let stolen = Answer { trial: key.booklets[3][5].id.clone(), ..elsewhere[9].clone() };
    elsewhere[9] = stolen.signed();
    assert_eq!(left_out(elsewhere), edited);
}

#[test]
fn answers_that_come_twice_count_once_and_two_of_one_name_are_two() {
    let dir = folder();
    let key = study(dir.path(), &options()).key;
    let mut rng = Rng::new(1, "a");
    let mut collected = Collected::new(&key);
    let named = |rater: &str, rng: &mut Rng| -> Vec<Answer> {
        let given = answers(&key, rater, 1, &Person::HONEST, rng).into_iter();
        given.map(|a| Answer { name: "Kim".into(), ..a }.signed()).collect()
    };
    let (one, two) = (named("r1", &mut rng), named("r2", &mut rng));
    for given in one.iter().chain(&two).chain(&one) {
        collected.add(given.clone()).unwrap();
    }
    assert_eq!((collected.raters.len(), collected.votes.len()), (2, one.len() + two.len()));
    assert_eq!(collected.twice, one.len());
    // the same rater says something else, earlier: what was first counts
    let before = collected.votes[4];
    let change = Answer { choice: one[4].choice.turned(), at: one[4].at - 1, ..one[4].clone() };
    collected.add(change.signed()).unwrap();
    assert_eq!(collected.votes[4].choice, before.choice.turned());
    let notes = analyze(&collected, &Rules::default()).notes.join("\n");
    assert!(notes.contains("2 raters are called \"Kim\""), "{notes}");
    assert!(notes.contains("more than once") && notes.contains("1 questions"), "{notes}");
}

#[test]
fn a_million_answers_take_seconds() {
    let dir = folder();
    let many =
        Options { pairs: None, per_rater: 100, practice: 0, catch: 0.0, repeats: 0.0, ..options() };
    let key = study(dir.path(), &many).key;
    let mut rng = Rng::new(1, "a");
    let one = answers(&key, "r", 0, &Person::HONEST, &mut rng);
    let start = std::time::Instant::now();
    let mut collected = Collected::new(&key);
    for i in 0..5_000 {
        for given in &one {
            collected.add(Answer { rater: format!("r{i}"), ..given.clone() }.signed()).unwrap();
        }
    }
    let analysis = analyze(&collected, &Rules::default());
    assert_eq!(analysis.answers, 1_000_000);
    let taken = start.elapsed();
    println!("a million answers: {taken:?}");
    assert!(taken.as_secs() < 120, "{taken:?}");
}
