//! Pages that are made from the code, and links that lead somewhere.

mod keys;
mod licences;
mod source;

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says that a page is stale, or writes it where `CDBENCH_WRITE` is set.
fn generated(page: &str, text: &str) {
    let path = root().join(page);
    if std::env::var_os("CDBENCH_WRITE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(text.lines()).find(|(a, b)| a != b);
    assert!(
        there == text,
        "{page} is not what the code says; make it again with\n  \
         CDBENCH_WRITE=1 cargo test --release --test docs\nfirst difference: {differs:?}"
    );
}

#[test]
fn the_page_of_keys_is_what_the_code_says() {
    generated("docs/experiment-keys.md", &keys::page());
}

#[test]
fn every_key_of_the_experiments_is_on_the_page() {
    let page = keys::page();
    for file in std::fs::read_dir(root().join("experiments")).unwrap().map(|e| e.unwrap().path()) {
        if file.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let table: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        for key in table.keys() {
            let there = page.contains(&format!("| `{key}` |"));
            let there = there || page.contains(&format!("Also called `{key}`."));
            assert!(there, "{}: {key}", file.display());
        }
    }
}

#[test]
fn every_measure_is_in_the_readme() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let registry = cdbench::metrics::Registry::default();
    let named = |name: &&str| text.contains(&format!("`{name}`"));
    let missing: Vec<&str> = registry.measures().map(|m| m.name()).filter(|n| !named(n)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages: Vec<PathBuf> = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    pages.extend(std::fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()));
    pages.retain(|page| page.extension().is_some_and(|e| e == "md"));
    assert!(pages.len() > 6, "{pages:?}");
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let to = page.parent().unwrap().join(path);
            assert!(to.exists(), "{}: {link}", page.display());
        }
    }
}
