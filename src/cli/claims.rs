//! `cdbench claims`: the paper's claims, judged by the reports that there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::report::{ClaimsPage, Markdown, Results, export, report_of};
use crate::{Error, Result, safefile};

const EXAMPLES: &str = "\
Examples:
  cdbench run experiments/table1.toml --scale full --out reports/table1
  cdbench claims
  cdbench claims runs/reports --out claims.md

Writes a page with a verdict on each of the paper's claims, and its numbers as claims.csv and
claims.json beside it. Of several reports of one experiment the one with the most cells counts.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where reports are looked for, in all folders below
    #[arg(value_name = "DIR", default_value = "reports")]
    folders: Vec<PathBuf>,

    /// The page [default: README.md in DIR]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs `cdbench claims`: nothing is trained, sampled or scored.
pub fn run(args: Args) -> Result<()> {
    let out = match (args.out, &args.folders[..]) {
        (Some(out), _) => out,
        (None, [folder]) => folder.join("README.md"),
        (None, folders) => {
            let message = format!("{} folders, and one page", folders.len());
            return Err(Error::input_hint(message, "say where it is written: --out FILE"));
        }
    };
    write(&args.folders, &out)
}

/// Writes the page of the reports below `folders`.
///
/// # Errors
/// No report; a file that is none of this program's; what reading and writing give.
pub fn write(folders: &[PathBuf], out: &Path) -> Result<()> {
    claim_file(out)?;
    let mut found = vec![];
    for folder in folders {
        reports_below(folder, &mut found)?;
    }
    // a folder may be below several of those given
    let full = |folder: &PathBuf| std::path::absolute(folder).unwrap_or(folder.clone());
    found.sort_by_key(full);
    found.dedup_by_key(|folder| full(folder));
    let (mut reports, mut unread) = (vec![], vec![]);
    for folder in found {
        match Results::read(&folder) {
            Ok(results) => reports.push((folder, results)),
            Err(error) => {
                eprintln!("{}: left out: {error}", folder.display());
                unread.push((folder, error.to_string()));
            }
        }
    }
    if reports.is_empty() {
        let folders: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        return Err(Error::input_hint(
            format!("{}: no report is below it", folders.join(", ")),
            "first: cdbench run experiments/table1.toml --out reports/table1",
        ));
    }

    let page = ClaimsPage::new(reports, unread);
    let found = page.findings();
    // a bare file name is in the folder where the command runs
    let folder = out.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    safefile::write(out, page.markdown(&found, folder))?;
    safefile::write(&folder.join("claims.csv"), page.csv(&found))?;
    let json = serde_json::to_string_pretty(&page.json(&found)).expect("strings and numbers");
    safefile::write(&folder.join("claims.json"), json + "\n")?;
    let evidence = found.iter().flat_map(|f| &f.evidence);
    let missing = evidence.filter_map(|e| e.measured.as_ref()?.as_ref().err()).map(|error| {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("not run: {error}{hint}")
    });
    for line in missing.collect::<BTreeSet<_>>() {
        eprintln!("{line}");
    }
    println!("{}", export(&[page.verdicts(&found)], &Markdown));
    eprintln!("{}", page.summary(&found));
    eprintln!("claims: {}", out.display());
    Ok(())
}

/// Refuses to write over a file that is no page of claims, and into a report's folder.
fn claim_file(out: &Path) -> Result<()> {
    let hint = "name another file with --out FILE";
    let report = report_of(out.parent().unwrap_or(Path::new("")));
    if let Some((experiment, _)) = report {
        let message = format!("{}: this is the folder of a report of {experiment}", out.display());
        return Err(Error::input_hint(message, hint));
    }
    match std::fs::read_to_string(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Ok(text) if text.starts_with(ClaimsPage::MARK) => Ok(()),
        Ok(_) => {
            let by_hand = format!("{}: this file is not of `cdbench claims`", out.display());
            Err(Error::input_hint(by_hand, hint))
        }
        Err(e) => Err(Error::io(out)(e)),
    }
}

/// The folders below `folder` that hold a report, itself among them. Links are not followed.
fn reports_below(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if folder.join("report.json").is_file() {
        found.push(folder.to_owned());
    }
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.file_type().map_err(Error::io(&entry.path()))?.is_dir() {
            reports_below(&entry.path(), found)?;
        }
    }
    Ok(())
}
