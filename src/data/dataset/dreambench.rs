//! DreamBench (google/dreambooth): a folder for each subject, and `prompts_and_classes.txt`, which has the
//! subjects' classes and, in Python, the prompts of objects and of live subjects.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Dataset, Place, Reader, add};
use crate::{Error, Result, readfile};

pub(super) struct DreamBench;

const FILE: &str = "prompts_and_classes.txt";
const MAX_FILE: u64 = 1 << 20;
/// Classes of live subjects, which have prompts of their own.
const LIVE: [&str; 2] = ["cat", "dog"];

impl Reader for DreamBench {
    fn name(&self) -> &'static str {
        "dreambench"
    }

    fn read(&self, place: &Place) -> Result<Dataset> {
        // the repository has the data in a folder of its own
        let roots = [place.root.clone(), place.root.join("dataset")];
        let Some(root) = roots.iter().find(|root| root.join(FILE).is_file()) else {
            return Err(Error::input_hint(
                format!("{}: there is no such file", place.root.join(FILE).display()),
                format!("`path` is the folder that holds {FILE} and a folder for each subject"),
            ));
        };
        let file = root.join(FILE);
        let said = Said::parse(&readfile::text(&file, MAX_FILE)?, &file)?;
        let mut found = Dataset::default();
        let mut absent = vec![];
        for (line, name, class) in &said.classes {
            let at = format!("{}: line {line}", file.display());
            let path = place.path(root, name, &at)?;
            if !path.exists() {
                absent.push(name.as_str());
                continue;
            }
            let prompts = match LIVE.contains(&class.as_str()) {
                true => &said.live,
                false => &said.objects,
            };
            let filled = prompts.iter().map(|prompt| prompt.replace(CLASS, class)).collect();
            add(&mut found.concepts, place.concept(name, class, path, Some(filled), &at)?, &at)?;
        }
        // a selection of the subjects is what people have
        if !absent.is_empty() && !found.concepts.is_empty() {
            tracing::info!(
                "{}: {} of {} subjects have no folder: {}",
                file.display(),
                absent.len(),
                said.classes.len(),
                absent.join(", ")
            );
        }
        Ok(found)
    }
}

/// The class alone, in a prompt that has it apart from the token.
const CLASS: &str = "{1}";

/// What the file says.
struct Said {
    /// Line, name and class of each subject.
    classes: Vec<(usize, String, String)>,
    objects: Vec<String>,
    live: Vec<String>,
}

impl Said {
    fn parse(text: &str, file: &Path) -> Result<Said> {
        let wrong = |line: usize, what: String, hint: &str| {
            Error::input_hint(format!("{}: line {line}: {what}", file.display()), hint)
        };
        let mut classes = vec![];
        let mut lists: BTreeMap<bool, Vec<String>> = BTreeMap::new();
        // of which prompts the last heading was, and whether a line is inside the list or the table
        let (mut live, mut inside, mut table) = (false, false, false);
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if inside {
                match text.strip_prefix(']') {
                    Some(_) => inside = false,
                    None if text.is_empty() => {}
                    None => {
                        let prompt = prompt(text).ok_or_else(|| {
                            let hint =
                                "'a {0} {1} in the jungle'.format(unique_token, class_token),";
                            wrong(line, format!("`{text}` is no prompt"), hint)
                        })?;
                        if !prompt.contains("{}") {
                            let hint =
                                "write {0} where the token goes and {1} where the class goes";
                            return Err(wrong(line, format!("`{text}` has no {{0}}"), hint));
                        }
                        crate::data::Prompt::parse(&prompt.replace(CLASS, "x"), 1)
                            .map_err(|e| e.of(&format!("{}: line {line}", file.display())))?;
                        lists.entry(live).or_default().push(prompt);
                    }
                }
            } else if text.ends_with('[') {
                inside = true;
            } else if text == "subject_name,class" {
                table = true;
            } else if table && text.contains(',') {
                let (name, class) = text.split_once(',').unwrap_or_default();
                classes.push((line, name.trim().to_owned(), class.trim().to_owned()));
            } else if !text.is_empty() {
                table = false;
                live = text.to_lowercase().contains("live");
            }
        }
        let lacks = |what: &str| {
            Error::input_hint(
                format!("{}: there {what} in it", file.display()),
                "it has a table below `subject_name,class`, and two lists `prompt_list = [ … ]` below \
                 the headings Object Prompts and Live Subject Prompts",
            )
        };
        if classes.is_empty() {
            return Err(lacks("are no classes"));
        }
        let mut list = |live: bool| lists.remove(&live).ok_or_else(|| lacks("are no prompts"));
        Ok(Said { objects: list(false)?, live: list(true)?, classes })
    }
}

/// The prompt of a line `'…'.format(…),` with `{}` in the place of the token and the class behind it.
fn prompt(line: &str) -> Option<String> {
    let quote = line.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let (text, _) = line[1..].rsplit_once(quote)?;
    let text = text.replace("{0} {1}", "{}").replace("{0}", "{}");
    (!text.trim().is_empty()).then_some(text)
}
