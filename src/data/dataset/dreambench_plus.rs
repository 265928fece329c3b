//! DreamBench++: one picture of each subject, `images/…/NN.jpg`, and `captions/…/NN.txt`, whose first line
//! is the subject and the others its prompts.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Dataset, Place, Reader, add};
use crate::data::is_clutter;
use crate::{Error, Result, readfile};

pub(super) struct DreamBenchPlus;

const MAX_FILE: u64 = 1 << 20;
const MAX_FILES: usize = 100_000;
const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

impl Reader for DreamBenchPlus {
    fn name(&self) -> &'static str {
        "dreambench++"
    }

    fn read(&self, place: &Place) -> Result<Dataset> {
        let roots = [place.root.clone(), place.root.join("data")];
        let whole =
            |root: &&PathBuf| root.join("images").is_dir() && root.join("captions").is_dir();
        let Some(root) = roots.iter().find(whole) else {
            return Err(Error::input_hint(
                format!("{}: there are no images/ and captions/ in it", place.root.display()),
                "`path` is the folder that holds both, `data` in the published archive",
            ));
        };
        let (captions, images) = (root.join("captions"), root.join("images"));
        let (mut texts, mut pictures) = (vec![], vec![]);
        files(&captions, &["txt"], 0, &mut texts)?;
        files(&images, &PICTURES, 0, &mut pictures)?;
        let mut found = Dataset::default();
        for text in &texts {
            let below = text.strip_prefix(&captions).unwrap_or(text).with_extension("");
            let at = text.display().to_string();
            let own = |picture: &&PathBuf| {
                picture.strip_prefix(&images).is_ok_and(|p| p.with_extension("") == below)
            };
            let Some(picture) = pictures.iter().find(own) else {
                return Err(Error::input_hint(
                    format!("{at}: there is no picture {}.jpg", images.join(&below).display()),
                    "the whole data set is wanted: a picture for each file of captions",
                ));
            };
            let (subject, prompts) = said(text)?;
            let name = collection(&below, &subject);
            let concept = place.concept(&name, &subject, picture.clone(), Some(prompts), &at)?;
            add(&mut found.concepts, concept, &at)?;
        }
        if let Some(picture) = pictures.iter().find(|picture| {
            let below = picture.strip_prefix(&images).unwrap_or(picture);
            !texts.contains(&captions.join(below).with_extension("txt"))
        }) {
            return Err(Error::input_hint(
                format!("{}: there are no captions for this picture", picture.display()),
                "the whole data set is wanted: a file of captions for each picture",
            ));
        }
        Ok(found)
    }
}

/// The files below a folder that end in one of these ways, sorted.
fn files(folder: &Path, extensions: &[&str], depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    const MAX_DEPTH: usize = 8;
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut paths = vec![];
    for entry in entries {
        let entry = entry.map_err(Error::io(folder))?;
        if !is_clutter(&entry.file_name().to_string_lossy()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    for path in paths {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_dir() && depth < MAX_DEPTH {
            files(&path, extensions, depth + 1, found)?;
        } else if extensions.contains(&extension.as_str()) {
            found.push(path);
        }
        if found.len() > MAX_FILES {
            return Err(Error::input(format!("{}: more than {MAX_FILES} files", folder.display())));
        }
    }
    Ok(())
}

/// The subject of a file of captions, and its prompts with `{}` in the subject's place. A prompt in other
/// words than the subject's is taken as it is, as the benchmark itself does.
fn said(file: &Path) -> Result<(String, Vec<String>)> {
    let text = readfile::text(file, MAX_FILE)?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lacks = |what: &str| {
        Error::input_hint(
            format!("{}: {what}", file.display()),
            "line 1 is the subject, such as `dog`, and each line behind it a prompt about it",
        )
    };
    let subject = lines.next().ok_or_else(|| lacks("the file is empty"))?.to_owned();
    let prompts: Vec<String> = lines.map(|line| with_place(line, &subject)).collect();
    match prompts.iter().filter(|prompt| prompt.contains("{}")).count() {
        _ if prompts.is_empty() => Err(lacks("there is no prompt behind the subject")),
        0 => Err(lacks(&format!("no prompt names the subject `{subject}`"))),
        _ => Ok((subject, prompts)),
    }
}

/// A caption with `{}` wherever the subject's words stand, in letters of any case.
fn with_place(caption: &str, subject: &str) -> String {
    let escape = |c: char| if "{}".contains(c) { format!("{c}{c}") } else { c.to_string() };
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut out = String::new();
    let mut rest = caption;
    let mut before = None;
    while let Some(c) = rest.chars().next() {
        let here = rest.get(..subject.len()).is_some_and(|start| {
            start.eq_ignore_ascii_case(subject) && !is_word(rest[subject.len()..].chars().next())
        });
        if here && !is_word(before) {
            out.push_str("{}");
            rest = &rest[subject.len()..];
            before = subject.chars().last();
        } else {
            out += &escape(c);
            rest = &rest[c.len_utf8()..];
            before = Some(c);
        }
    }
    out
}

/// What the benchmark calls a subject, such as `live_subject_animal_00_kitten`: its folders of samples are
/// called so.
fn collection(below: &Path, subject: &str) -> String {
    let name =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let category = match name(below.parent().and_then(Path::file_name)).as_str() {
        kind @ ("animal" | "human") => format!("live_subject_{kind}"),
        kind => kind.to_owned(),
    };
    let whole = format!("{category}_{}_{}", name(below.file_name()), subject.to_lowercase());
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    whole.trim_start_matches('_').chars().map(plain).take(64).collect()
}
