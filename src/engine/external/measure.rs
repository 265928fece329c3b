//! A measure of others: a program that is shown pictures and says a value of each, or of all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::CONTRACT;
use super::program::Wanted;
use crate::engine::key::{Key, hex};
use crate::methods::{fill, shown};
use crate::metrics::{Better, Files, Given, Gives, Measure, Need, Outcome, Sees, SetValue, Shown};
use crate::process::Order;
use crate::spec::{MeasureSpec, OF_MEASURES};
use crate::{Error, Result, readfile, safefile};

/// An answer larger than this is none.
const MOST_BYTES: u64 = 1 << 28;

/// A measure that a program of others takes.
pub struct MeasureProgram {
    name: String,
    spec: MeasureSpec,
    definition: String,
    /// All that its values depend on besides the pictures.
    identity: String,
    /// Where it runs.
    folder: PathBuf,
}

/// What a program gives back.
#[derive(Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
enum Answer {
    Images { values: Vec<f64> },
    Set { value: f64, se: Option<f64> },
}

impl MeasureProgram {
    /// The measure that an experiment in `folder` calls `name`; `hashes` keeps the hashes of files.
    ///
    /// # Errors
    /// An input that cannot be read, a program that does not say its version.
    pub fn find(name: &str, spec: &MeasureSpec, folder: &Path, hashes: &Path) -> Result<Self> {
        let wanted = Wanted {
            args: spec.command.iter().map(String::as_str).collect(),
            inputs: &spec.inputs,
            version: spec.version.as_deref(),
            version_command: spec.version_command.as_deref(),
        };
        let of_key = |e: Error| e.of(&format!("`measures.{name}`"));
        let (version, inputs) = wanted.found(folder, hashes).map_err(of_key)?;
        let identity = hex(json!({
            "args": spec.command,
            "settings": spec.settings,
            "version": version,
            "inputs": inputs,
            "of": spec.of,
            "gives": spec.gives,
        })
        .to_string());
        let said = spec.definition.clone().unwrap_or_else(|| {
            let version = if version.is_empty() { "".into() } else { format!(" {version}") };
            format!("what `{}`{version} says", spec.command.join(" "))
        });
        let definition = format!("{said} (program {})", &identity[..12]);
        let (name, spec, folder) = (name.to_owned(), spec.clone(), folder.to_owned());
        Ok(MeasureProgram { name, spec, definition, identity, folder })
    }

    fn ask(&self, given: &Given, files: &Files) -> Result<Answer> {
        let prompt = |i: usize| files.prompts.get(i);
        let images: Vec<Value> = (files.images.iter().zip(given.groups).enumerate())
            .map(|(i, (file, group))| json!({ "file": file, "group": group, "prompt": prompt(i) }))
            .collect();
        let told = json!({
            "contract": CONTRACT,
            "images": images,
            "against": files.against,
            "itself": given.itself,
            "settings": self.spec.settings,
        });
        let known = match files.cache {
            Some(cache) => {
                let pictures = files.images.iter().chain(&files.against);
                let hashes = pictures.map(|path| content_hash(path)).collect::<Result<Vec<_>>>()?;
                let asked = json!({
                    "measure": self.identity,
                    "pictures": hashes,
                    "of": files.images.len(),
                    "groups": given.groups,
                    "prompts": files.prompts,
                    "itself": given.itself,
                });
                Some(cache.join("measures").join(format!("{}.json", Key::of(&asked).short())))
            }
            None => None,
        };
        // a file that is damaged is made again
        let found = known.as_ref().and_then(|path| fs::read(path).ok());
        if let Some(answer) = found.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(answer);
        }
        let answer = self.run(&told, files)?;
        self.check(&answer, files.images.len())?;
        if let Some(path) = known {
            safefile::write(&path, serde_json::to_string(&answer).unwrap_or_default())?;
        }
        Ok(answer)
    }

    fn run(&self, told: &Value, files: &Files) -> Result<Answer> {
        // the program runs in another folder
        let desk = std::path::absolute(files.desk).map_err(Error::io(files.desk))?;
        let (images, out) = (desk.join("images.json"), desk.join("out.json"));
        safefile::write(&images, serde_json::to_string_pretty(told).unwrap_or_default() + "\n")?;
        let value = |name: &str| match name {
            "images" => Some(images.display().to_string()),
            "out" => Some(out.display().to_string()),
            name => self
                .spec
                .settings
                .get(name)
                .and_then(|v| serde_json::to_value(v).ok())
                .map(|v| shown(&v)),
        };
        let args = self.spec.command.iter().map(|arg| fill(arg, &OF_MEASURES, &value));
        let args = args.collect::<Result<Vec<_>>>()?;
        let order = Order {
            args: &args,
            folder: &self.folder,
            said: &desk,
            timeout: self.spec.timeout.map(Duration::from_secs_f64),
            stop: files.stop,
        };
        order.run(&mut || {})?;
        if !out.exists() {
            return Err(Error::input_hint(
                "the program ended well and left no {out}",
                "it writes the values into the file that {out} stands for; see docs/external-methods.md",
            ));
        }
        let text = readfile::text(&out, MOST_BYTES)?;
        serde_json::from_str(&text).map_err(|e| {
            Error::input_hint(
                format!("what the program left in {{out}}: {e}"),
                "it is {\"values\": [0.5, …]}, one of each image, or {\"value\": 0.5, \"se\": 0.1}",
            )
        })
    }

    fn check(&self, answer: &Answer, images: usize) -> Result<()> {
        let numbers: Vec<f64> = match (answer, self.spec.gives) {
            (Answer::Images { values }, Gives::Images) if values.len() == images => values.clone(),
            (Answer::Images { values }, Gives::Images) => {
                let message = format!("{} values of {images} images", values.len());
                return Err(Error::input_hint(message, "it gives one of each, in their order"));
            }
            (Answer::Set { value, se }, Gives::Set) => {
                [Some(*value), *se].into_iter().flatten().collect()
            }
            (_, Gives::Images) => {
                return Err(Error::input_hint("a value of the set", "gives = \"set\" is for this"));
            }
            (_, Gives::Set) => {
                return Err(Error::input_hint(
                    "values of images",
                    "gives = \"images\" is for this",
                ));
            }
        };
        match numbers.iter().all(|x| x.is_finite()) {
            true => Ok(()),
            false => Err(Error::input("a value is no number")),
        }
    }
}

fn content_hash(path: &Path) -> Result<String> {
    Ok(hex(fs::read(path).map_err(Error::io(path))?))
}

impl Measure for MeasureProgram {
    fn name(&self) -> &str {
        &self.name
    }

    fn title(&self) -> &str {
        self.spec.title.as_deref().unwrap_or(&self.name)
    }

    fn definition(&self) -> &str {
        &self.definition
    }

    fn better(&self) -> Better {
        self.spec.better
    }

    fn shown(&self) -> Shown<'_> {
        Shown { scale: self.spec.scale, unit: &self.spec.unit, digits: self.spec.digits }
    }

    fn tolerance(&self) -> f64 {
        self.spec.tolerance
    }

    fn need(&self) -> Need {
        self.spec.of
    }

    fn gives(&self) -> Gives {
        self.spec.gives
    }

    fn sees(&self) -> Sees {
        Sees::Files
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        let Some(files) = given.files.filter(|files| !files.images.is_empty()) else {
            return Ok(None);
        };
        let answer =
            self.ask(given, files).map_err(|e| e.of(&format!("`measures.{}`", self.name)))?;
        Ok(Some(match answer {
            Answer::Images { values } => Outcome::Images(values),
            Answer::Set { value, se } => Outcome::Set(SetValue {
                value,
                se,
                se_images: se,
                n: files.images.len(),
                counts: BTreeMap::new(),
            }),
        }))
    }
}
