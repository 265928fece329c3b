//! Names of concepts and pairs, and patterns of names.

use serde::{Deserialize, Deserializer};

use crate::error::nearest;
use crate::{Error, Result};

/// A name alone, or a list of names.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a name, a pattern such as \"*\", or a list of them, is wanted")]
    enum Given {
        One(String),
        More(Vec<String>),
    }
    Ok(Some(match Given::deserialize(from)? {
        Given::One(name) => vec![name],
        Given::More(names) => names,
    }))
}

/// The names given, each pattern among them in the place of all `known` names that it matches. What was
/// named before is not named again by a pattern.
///
/// # Errors
/// A pattern that matches none, with the names that come nearest.
pub(super) fn matching(given: &[String], known: &[&str]) -> Result<Vec<String>> {
    let mut found: Vec<String> = vec![];
    for name in given {
        if !name.contains(['*', '?']) {
            found.push(name.clone());
            continue;
        }
        let matches: Vec<&str> = known.iter().copied().filter(|k| fits(name, k)).collect();
        // all of none is none: a data set may have no pairs
        if matches.is_empty() && !(known.is_empty() && name == "*") {
            let bare: String = name.chars().filter(|c| !"*?".contains(*c)).collect();
            return Err(Error::input_hint(
                format!("no name is like `{name}`"),
                nearest(&bare, known.iter().copied()),
            ));
        }
        // those that are named by themselves keep their places
        let new = matches.into_iter().filter(|m| !given.iter().any(|g| g == m));
        let new: Vec<String> =
            new.filter(|m| !found.iter().any(|f| f == m)).map(Into::into).collect();
        found.extend(new);
    }
    Ok(found)
}

/// Whether `name` is like `pattern`: `*` stands for any letters, `?` for one.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // where the last `*` was, and what of the name it stands for so far
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["cat_mint", "cat_rose", "dog", "猫"];

    fn of(given: &[&str]) -> Result<Vec<String>> {
        let given: Vec<String> = given.iter().map(|g| g.to_string()).collect();
        matching(&given, &KNOWN)
    }

    #[test]
    fn patterns_stand_for_the_names_that_are_like_them() {
        assert_eq!(of(&["*"]).unwrap(), KNOWN);
        assert_eq!(of(&["cat_*", "dog"]).unwrap(), ["cat_mint", "cat_rose", "dog"]);
        assert_eq!(of(&["?"]).unwrap(), ["猫"]);
        assert_eq!(of(&["*_*o*e"]).unwrap(), ["cat_rose"]);
        // what is named twice is there once, in its own place
        assert_eq!(of(&["*", "cat_*", "dog"]).unwrap(), ["cat_mint", "cat_rose", "猫", "dog"]);
        assert_eq!(of(&["bird"]).unwrap(), ["bird"], "names are looked up by others");
    }

    #[test]
    fn a_pattern_of_nothing_has_near_names() {
        let error = of(&["dig*"]).unwrap_err();
        assert!(error.to_string().contains("`dig*`"), "{error}");
        assert_eq!(error.hint(), Some("did you mean dog?"));
        let all = |pattern: &str| matching(&[pattern.to_owned()], &[]);
        assert!(all("*").unwrap().is_empty() && all("d*").is_err());
    }
}
