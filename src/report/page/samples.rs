//! The samples of the page: a column of values for each thing that is known of an image, so that twenty
//! thousand of them are read in a moment.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::sheets::{ACROSS, Place, Sheets, sheets, strip};
use crate::Result;
use crate::report::folder::Folder;
use crate::report::grid::{Again, Pictures};
use crate::report::results::{ImageRow, Results};
use crate::report::view::Group;

/// Draws the samples into the folder, and says where each is. Images of one prompt and noise are neighbours.
///
/// # Errors
/// A file that cannot be written.
pub fn samples(
    results: &Results,
    groups: &[Group],
    finder: &dyn Pictures,
    folder: &Folder,
) -> Result<Value> {
    let cells: HashMap<&str, usize> =
        results.cells.iter().enumerate().map(|(i, c)| (c.id.as_str(), i)).collect();
    // a group's concept sets, in order, and within a prompt its rows, in order
    let (mut images, mut sets): (Vec<&ImageRow>, Vec<Vec<usize>>) = (vec![], vec![]);
    for group in groups {
        for concepts in &group.concepts {
            let mut own: Vec<(usize, &ImageRow)> = vec![];
            for (place, row) in group.rows.iter().enumerate() {
                for cell in row.cells.iter().filter(|c| c.concepts == *concepts) {
                    own.extend(row.images_of(cell).iter().map(|image| (place, *image)));
                }
            }
            own.sort_by_key(|(place, i)| (&i.of, i.prompt, i.seed, *place));
            sets.push((images.len()..images.len() + own.len()).collect());
            images.extend(own.into_iter().map(|(_, image)| image));
        }
    }
    let drawn = sheets(&images, &sets, finder, folder)?;
    let (mut prompts, mut asked, mut seeds) = (Names::new(), Names::new(), Names::new());
    let (mut folders, mut origins) = (Names::new(), Names::new());
    let mut columns: [Vec<Value>; 7] = Default::default();
    let mut commands: Vec<Value> = vec![];
    for image in &images {
        let (place, name) = image.file.rsplit_once('/').unwrap_or(("", &image.file));
        let (mut prompt, mut origin) = (Value::Null, Value::Null);
        if let Some(found) = finder.origin(image) {
            prompt = asked.number(&found.prompt).into();
            let (command, is_sample) = match &found.command {
                Again::Sample(command) => (command, true),
                Again::Run(command) => (command, false),
            };
            let how = json!([found.checkpoint, command, is_sample]);
            let number = origins.number(&how.to_string());
            if number == commands.len() {
                commands.push(how);
            }
            origin = number.into();
        }
        let values: [Value; 7] = [
            cells[image.cell.as_str()].into(),
            prompts.number(&json!([image.of, image.prompt, image.text_prompt]).to_string()).into(),
            prompt,
            seeds.number(&image.seed.to_string()).into(),
            folders.number(place).into(),
            name.into(),
            origin,
        ];
        columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
    }
    let names = ["cell", "prompt", "asked", "seed", "folder", "file", "origin"];
    let mut out: Map<String, Value> =
        names.iter().map(|n| (*n).to_owned()).zip(columns.map(Value::from)).collect();
    out.extend(places(&drawn));
    out.insert("values".into(), values(results, &images));
    let texts = prompts.0.iter().filter_map(|p| serde_json::from_str::<Value>(p).ok());
    Ok(json!({
        "images": out,
        "prompts": texts.collect::<Vec<_>>(),
        "asked": asked.0,
        "seeds": seeds.0,
        "folders": folders.0,
        "origins": commands,
        "sheets": drawn.files,
        "side": drawn.side,
        "across": ACROSS,
        "exact": drawn.exact,
        "targets": targets(groups, finder, folder)?,
    }))
}

/// Sheet, slot and name of each whole image; −1 where it is lost.
fn places(drawn: &Sheets) -> [(String, Value); 3] {
    let of = |value: &dyn Fn(&Place) -> Value, lost: Value| -> Value {
        drawn.places.iter().map(|p| p.as_ref().map_or(lost.clone(), value)).collect()
    };
    [
        ("sheet".into(), of(&|p| p.sheet.into(), (-1).into())),
        ("slot".into(), of(&|p| p.slot.into(), (-1).into())),
        ("full".into(), of(&|p| p.full.as_str().into(), "".into())),
    ]
}

/// Every metric's values, each a number, or a list of those with each concept. Nobody reads more than
/// seven digits.
fn values(results: &Results, images: &[&ImageRow]) -> Value {
    let shown = |found: f64| Value::from(format!("{found:.6e}").parse().unwrap_or(found));
    let mut out = Map::new();
    for name in results.metrics.iter().filter(|m| m.of_images()).map(|m| &m.name) {
        let of = |image: &&ImageRow| match image.values.get(name).map(Vec::as_slice) {
            None | Some([]) => Value::Null,
            Some([one]) => shown(*one),
            Some(several) => several.iter().map(|v| shown(*v)).collect(),
        };
        out.insert(name.clone(), images.iter().map(of).collect());
    }
    out.into()
}

/// The strip of targets of each concept.
fn targets(groups: &[Group], finder: &dyn Pictures, folder: &Folder) -> Result<Value> {
    let mut out = Map::new();
    for concept in groups.iter().flat_map(|g| &g.concepts).flat_map(|set| set.iter()) {
        if !out.contains_key(concept) {
            let found = strip(&finder.targets(concept), folder)?;
            out.insert(concept.clone(), json!(found));
        }
    }
    Ok(out.into())
}

/// Texts, each once, and their numbers.
struct Names(Vec<String>, HashMap<String, usize>);

impl Names {
    fn new() -> Self {
        Names(vec![], HashMap::new())
    }

    fn number(&mut self, text: &str) -> usize {
        if let Some(&known) = self.1.get(text) {
            return known;
        }
        self.0.push(text.to_owned());
        self.1.insert(text.to_owned(), self.0.len() - 1);
        self.0.len() - 1
    }
}
