//! That the file of licences speaks of what is compiled in.

use std::process::Command;

use super::root;

/// The crates of this build, as cargo knows them: `name version`.
fn compiled_in() -> Vec<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal,no-proc-macro"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let lines = String::from_utf8(tree.stdout).unwrap();
    let mut crates: Vec<String> = lines
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap()))
        .filter(|it| !it.starts_with("cdbench "))
        .collect();
    crates.sort();
    crates.dedup();
    crates
}

#[test]
fn the_licences_of_all_that_is_compiled_in_are_there() {
    let text = std::fs::read_to_string(root().join("assets/licences/third-party.txt")).unwrap();
    let crates = compiled_in();
    assert!(crates.len() > 100, "{crates:?}");
    let listed = |it: &String| {
        text.lines().any(|line| {
            let line = line.strip_prefix("  ").unwrap_or("");
            line.strip_prefix(it.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(" <"))
        })
    };
    let missing: Vec<&String> = crates.iter().filter(|it| !listed(it)).collect();
    assert!(
        missing.is_empty(),
        "not in assets/licences/third-party.txt, which assets/licences/about.toml says how to make: \
         {missing:?}"
    );
    for what in ["SIL OPEN FONT LICENSE", "Twemoji", "OpenCLIP", "CC-BY 4.0"] {
        assert!(text.contains(what), "{what}");
    }
}
