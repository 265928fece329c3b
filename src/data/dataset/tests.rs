use std::fs;

use image::RgbImage;

use super::*;
use crate::data::{ConceptSource, Prompt, load_concepts, world_pair};

/// A folder with files; those that end in a picture's extension are pictures.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match path.extension().is_some_and(|e| e == "png" || e == "jpg") {
            true => RgbImage::new(3, 2).save(path).unwrap(),
            false => fs::write(path, text).unwrap(),
        }
    }
    dir
}

fn spec(kind: &str, path: &Path) -> DatasetSpec {
    let (kind, path) = (kind.into(), path.into());
    DatasetSpec { kind, path, prompts: None, outside: false, on_corrupt: OnCorrupt::Refuse }
}

fn read(kind: &str, dir: &tempfile::TempDir) -> Result<Dataset> {
    spec(kind, dir.path()).read(Path::new("."))
}

/// What an error and its hint say.
#[track_caller]
fn refused(kind: &str, files: &[(&str, &str)]) -> String {
    let error = read(kind, &folder(files)).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    format!("{error} | {}", error.hint().unwrap_or_default())
}

fn prompts(concept: &FolderSource) -> Vec<String> {
    let Some(PromptSource::List(list)) = &concept.prompts else { return vec![] };
    list.clone()
}

const DOG: &str = r#"{"instance_prompt": "photo of a <new1> dog", "class_prompt": "dog",
  "instance_data_dir": "./benchmark_dataset/pet_dog1", "class_data_dir": "./regularization/pet_dog",
  "prompt_filename": "prompts/dog.txt"}"#;
const GATE: &str = r#"{"instance_prompt": "photo of a moongate", "class_prompt": "moongate",
  "instance_data_dir": "./benchmark_dataset/moongate", "prompt_filename": "prompts/moongate.txt"}"#;
const PICTURES: [(&str, &str); 4] = [
    ("benchmark_dataset/pet_dog1/0.jpg", ""),
    ("benchmark_dataset/moongate/0.jpg", ""),
    ("prompts/dog.txt", "photo of a {}.\n{} in times square. \n"),
    ("prompts/moongate.txt", "photo of a moongate.\nMoongate in snowy ice."),
];

/// A list with an entry, in a folder that has what its usual entries name.
fn listed(entries: &[&str], more: &[(&'static str, &'static str)]) -> Vec<(&'static str, String)> {
    let list = format!("[\n{}\n]\n", entries.join(",\n"));
    let all = PICTURES.iter().chain(more).map(|(name, text)| (*name, (*text).to_owned()));
    all.chain([("dataset.json", list)]).collect()
}

fn borrowed<'a>(files: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    files.iter().map(|(name, text)| (*name, text.as_str())).collect()
}

#[test]
fn customconcept101_has_concepts_pairs_and_their_prompts() {
    // the data set calls a chair a sofa in one of its pairs
    let seat = DOG.replace("\"dog\"", "\"sofa\"");
    let end = r#"{"prompt_filename_compose": "prompts/both.txt"}"#;
    let pairs =
        format!("[[{DOG}, {GATE}, {end}], [{GATE}, {seat}, {end}], [{DOG}, {GATE}, {end}]]");
    let mut files = listed(&[DOG, GATE], &[("prompts/both.txt", "{0} and {1}\n{1} on a {0}\n")]);
    files.push(("dataset_multiconcept.json", pairs));
    let dir = folder(&borrowed(&files));
    let found = read("customconcept101", &dir).unwrap();
    let names: Vec<_> =
        found.concepts.iter().map(|c| (c.name.as_str(), c.category.as_str())).collect();
    assert_eq!(names, [("pet_dog1", "dog"), ("moongate", "moongate")]);
    assert_eq!(prompts(&found.concepts[0]), ["photo of a {}.", "{} in times square."]);
    // one that needs no token has its own word in the prompts
    assert_eq!(prompts(&found.concepts[1])[1], "Moongate in snowy ice.");
    let sets: Vec<_> = found.sets.iter().map(|s| (s.name.as_str(), s.concepts.join(" "))).collect();
    assert_eq!(sets[0], ("pet_dog1-moongate", "pet_dog1 moongate".into()));
    assert_eq!(sets[1], ("moongate-pet_dog1-sofa", "moongate pet_dog1-sofa".into()));
    assert_eq!(sets[2].0, "pet_dog1-moongate-2", "pairs may come again");
    assert_eq!(found.sets[0].prompts, ["{0} and {1}", "{1} on a {0}"]);
    assert_eq!((found.in_sets.len(), found.in_sets[0].category.as_str()), (1, "sofa"));
    let concept = ConceptSource::Folder(found.concepts[0].clone()).load().unwrap();
    assert_eq!((concept.targets.len(), concept.prompts.len()), (1, 2));
}

#[test]
fn customconcept101_errors_say_where_and_what() {
    let wrong = |from: &str, to: &str, more: &[(&'static str, &'static str)]| {
        let entry = DOG.replace(from, to);
        refused("customconcept101", &borrowed(&listed(&[GATE, &entry], more)))
    };
    let at = "dataset.json: line 4: `instance_data_dir`";
    for (from, to, wanted) in [
        ("./benchmark_dataset/pet_dog1", "../photos", "leads out of the data set's folder"),
        ("./benchmark_dataset/pet_dog1", "/etc", "outside = true"),
        ("./benchmark_dataset/pet_dog1", "benchmark_dataset/x/../..", "leads out"),
        ("./benchmark_dataset/pet_dog1", "./benchmark_dataset/pet_dog9", "there is no such folder"),
        ("./benchmark_dataset/pet_dog1", "benchmark_dataset/moongate", "`moongate` is there twice"),
        ("./benchmark_dataset/pet_dog1", "", "empty"),
    ] {
        let said = wrong(from, to, &[]);
        assert!(said.contains(at) && said.contains(wanted), "{to}: {said}");
    }
    let said = wrong("\"dog\"", "\"<new1> dog\"", &[]);
    assert!(said.contains("line 4: `class_prompt`") && said.contains("no category"), "{said}");
    let said = wrong("dog.txt", "cow.txt", &[]);
    assert!(said.contains("`prompt_filename`") && said.contains("prompts/cow.txt"), "{said}");
    let said = wrong("dog.txt", "plain.txt", &[("prompts/plain.txt", "a photo\na house\n")]);
    assert!(said.contains("plain.txt: no prompt names a concept") && said.contains("{}"), "{said}");
    let said = wrong("dog.txt", "two.txt", &[("prompts/two.txt", "a {}\na {1}\n")]);
    assert!(said.contains("two.txt: line 2"), "{said}");
    let said = wrong("\"class_prompt\": \"dog\",", "", &[]);
    assert!(said.contains("missing field `class_prompt`") && said.contains("line 6"), "{said}");
    assert!(wrong("\"dog\"", "7", &[]).contains("line 4: invalid type"));
    assert!(wrong("}", "", &[]).contains("dataset.json: line"));
    assert!(wrong("\"}", "\"} {}", &[]).contains("a comma"));
    let said = refused("customconcept101", &[("prompts/dog.txt", "a {}")]);
    assert!(said.contains("dataset.json") && said.contains("benchmark_dataset"), "{said}");
    assert!(refused("customconcept101", &[("dataset.json", "[]")]).contains("no concept"));
    assert!(refused("customconcept101", &[("dataset.json", "{}")]).contains("a list"));

    let dir = folder(&borrowed(&listed(&[DOG], &[])));
    fs::remove_file(dir.path().join("benchmark_dataset/pet_dog1/0.jpg")).unwrap();
    let error = read("customconcept101", &dir).unwrap_err();
    assert!(error.to_string().contains("the folder is empty"), "{error}");
    for pairs in
        ["[[]]", "[[{}]]", "[[{\"prompt_filename_compose\": \"prompts/dog.txt\"}]]", "[{}]"]
    {
        let mut files = listed(&[DOG], &[]);
        files.push(("dataset_multiconcept.json", pairs.into()));
        let said = refused("customconcept101", &borrowed(&files));
        assert!(said.contains("dataset_multiconcept.json: line 1"), "{pairs}: {said}");
    }
}

#[test]
fn concept_lists_may_say_how_the_class_is_shown() {
    let list = r#"[{"instance_prompt": "photo of a <new1> cat", "class_prompt": "a photo of a wooden pot",
        "instance_data_dir": "./data/pot", "class_data_dir": "./real_reg/samples_pot"}]"#;
    let dir = folder(&[("concept_list.json", list), ("data/pot/a.png", "")]);
    let mut spec = spec("concept-list", &dir.path().join("concept_list.json"));
    let found = spec.read(Path::new(".")).unwrap();
    assert_eq!(
        (found.concepts[0].name.as_str(), found.concepts[0].category.as_str()),
        ("pot", "wooden pot")
    );
    assert_eq!(found.concepts[0].prompts, None);
    spec.path = dir.path().into();
    spec.prompts = Some(PromptSource::List(vec!["a {} at night".into()]));
    assert_eq!(prompts(&spec.read(Path::new(".")).unwrap().concepts[0]), ["a {} at night"]);
    // paths out of the folder are the user's to allow
    let outside = list.replace("./data/pot", &dir.path().join("data/pot").display().to_string());
    let other = folder(&[("concept_list.json", &outside)]);
    assert!(read("concept-list", &other).unwrap_err().hint().unwrap().contains("outside = true"));
    spec.path = other.path().into();
    spec.outside = true;
    assert_eq!(spec.read(Path::new(".")).unwrap().concepts[0].name, "pot");
}

const SUBJECTS: &str = "Classes\n\nsubject_name,class\nrc_car,toy\ndog2,dog\nvase,vase\n\nPrompts\n\nObject Prompts\n\n\
    prompt_list = [\n'a {0} {1} in the jungle'.format(unique_token, class_token),\n\
    \"a {0} {1} at one o'clock\".format(unique_token, class_token)\n]\n\nLive Subject Prompts\n\n\
    prompt_list = [\n'a {0} {1} wearing a red hat'.format(unique_token, class_token),\n]\n";

#[test]
fn dreambench_has_other_prompts_for_live_subjects() {
    let dir = folder(&[
        ("dataset/prompts_and_classes.txt", SUBJECTS),
        ("dataset/rc_car/00.jpg", ""),
        ("dataset/dog2/00.jpg", ""),
    ]);
    let found = read("dreambench", &dir).unwrap();
    let said = |i: usize| {
        let concept = &found.concepts[i];
        (concept.name.as_str(), concept.category.as_str(), prompts(concept))
    };
    let objects = ["a {} in the jungle", "a {} at one o'clock"].map(String::from).to_vec();
    assert_eq!(said(0), ("rc_car", "toy", objects));
    assert_eq!(said(1), ("dog2", "dog", vec!["a {} wearing a red hat".into()]));
    assert_eq!(found.concepts.len(), 2, "a selection of the subjects is a data set");
}

#[test]
fn dreambench_errors_say_where_and_what() {
    let wrong = |from: &str, to: &str| {
        refused(
            "dreambench",
            &[("prompts_and_classes.txt", &SUBJECTS.replace(from, to)), ("vase/a.jpg", "")],
        )
    };
    assert!(wrong("rc_car,toy", "../..,toy").contains("prompts_and_classes.txt: line 4"));
    assert!(wrong("vase,vase", "vase,<x>").contains("line 6"));
    assert!(wrong("vase,vase", "vase,vase\nvase,vase").contains("line 7"));
    assert!(wrong("'a {0} {1} in the jungle'", "'a jungle'").contains("has no {0}"));
    assert!(wrong("'a {0} {1} in the jungle'", "a {0}").contains("line 13"));
    assert!(wrong("{0} {1} in", "{0} {1} {2} in").contains("line 13"));
    assert!(wrong("subject_name,class", "subjects").contains("no classes"));
    assert!(wrong("Live Subject Prompts\n\nprompt_list = [\n", "x\n").contains("no prompts"));
    assert!(refused("dreambench", &[("a.txt", "")]).contains("prompts_and_classes.txt"));
    assert!(refused("dreambench", &[("prompts_and_classes.txt", SUBJECTS)]).contains("no concept"));
}

#[test]
fn dreambench_plus_plus_has_a_picture_and_captions_of_each_subject() {
    let kitten = "Kitten\nA kitten on a bed.\nA kittens' {toy} and a Kitten\nan empty room\n";
    let files = [
        ("data/images/live_subject/animal/00.jpg", ""),
        ("data/captions/live_subject/animal/00.txt", kitten),
        ("data/images/style/03.jpg", ""),
        ("data/captions/style/03.txt", "oil painting\n\nan oil painting of a house"),
    ];
    let dir = folder(&files);
    let found = read("dreambench++", &dir).unwrap();
    let names: Vec<&str> = found.concepts.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["live_subject_animal_00_kitten", "style_03_oil_painting"]);
    let of_kitten = ["A {} on a bed.", "A kittens' {{toy}} and a {}", "an empty room"];
    assert_eq!(prompts(&found.concepts[0]), of_kitten);
    assert_eq!(found.concepts[1].category, "oil painting");
    let concept = ConceptSource::Folder(found.concepts[0].clone()).load().unwrap();
    assert_eq!((concept.targets.len(), concept.targets[0].name.as_str()), (1, "00.jpg"));

    let change = |file: usize, text: &'static str| {
        let mut files = files;
        files[file].1 = text;
        refused("dreambench++", &files)
    };
    assert!(change(1, "").contains("00.txt: the file is empty"));
    assert!(change(1, "kitten\n\n").contains("no prompt behind the subject"));
    assert!(change(1, "kitten\na dog\n").contains("no prompt names the subject"));
    assert!(change(1, "<kitten>\na <kitten>\n").contains("no category"));
    assert!(refused("dreambench++", &files[..3]).contains("no captions"));
    assert!(refused("dreambench++", &[files[0], files[1], files[3]]).contains("no picture"));
    assert!(refused("dreambench++", &files[..1]).contains("captions/"));
}

#[test]
fn kinds_and_folders_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let error = read("dreambench+", &dir).unwrap_err();
    assert!(error.hint().unwrap().contains("dreambench"), "{error}");
    let error = spec("dreambench", Path::new("nowhere")).read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[test]
fn what_is_written_is_read_as_it_was() {
    let names = ["dog_plum", "cat_mint"];
    let sources = names.map(|name| ConceptSource::World(name.into()));
    let concepts = load_concepts(&sources).unwrap();
    let (_, prompts) = world_pair("cat_dog").unwrap();
    let set =
        ExportedSet { name: "cat_dog".into(), concepts: vec![1, 0], prompts: prompts.clone() };
    let dir = tempfile::tempdir().unwrap();
    write_customconcept101(dir.path(), &concepts, &[set]).unwrap();
    let found = read("customconcept101", &dir).unwrap();
    for (source, written) in found.concepts.iter().zip(&concepts) {
        let read = ConceptSource::Folder(source.clone()).load().unwrap();
        assert_eq!((&read.name, &read.category), (&written.name, &written.category));
        assert_eq!((&read.targets, &read.prompts), (&written.targets, &written.prompts));
    }
    assert_eq!(found.sets[0].name, "cat_dog");
    assert_eq!(found.sets[0].concepts, ["cat_mint", "dog_plum"]);
    let read: Vec<Prompt> =
        found.sets[0].prompts.iter().map(|p| Prompt::parse(p, 2).unwrap()).collect();
    assert_eq!(read, prompts);
}
