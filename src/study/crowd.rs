//! The file that crowd platforms take, a line a trial, and the answers as Mechanical Turk gives them back.

use super::page::Page;

/// The name of the file.
pub const FILE: &str = "crowd.csv";

/// A line for each trial of every booklet but for practice, with the addresses of images below `base_url`.
pub fn csv(page: &Page, base_url: &str) -> String {
    let slash = if base_url.is_empty() || base_url.ends_with('/') { "" } else { "/" };
    let url = |name: &String| format!("{base_url}{slash}images/{name}.png");
    let trials = || page.booklets.iter().flatten().filter(|t| !t.practice);
    let targets = |sets: &[usize]| -> Vec<String> {
        sets.iter().flat_map(|&s| &page.sets[s].images).map(url).collect()
    };
    let most = trials().map(|t| targets(&t.sets).len()).max().unwrap_or(0);
    let mut csv = csv::Writer::from_writer(vec![]);
    let head = ["study", "trial", "prompt", "left", "right"].map(str::to_owned);
    let head = head.into_iter().chain((1..=most).map(|i| format!("target_{i}")));
    csv.write_record(head).expect("memory");
    for trial in trials() {
        let mut targets = targets(&trial.sets);
        targets.resize(most, String::new());
        let line = [
            page.id.clone(),
            trial.id.clone(),
            trial.prompt.clone(),
            url(&trial.left),
            url(&trial.right),
        ];
        csv.write_record(line.into_iter().chain(targets)).expect("as many fields as names");
    }
    String::from_utf8(csv.into_inner().expect("memory")).expect("strings")
}
