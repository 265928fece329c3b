//! What systems leave among people's files.

/// Names of files and folders, in any case.
const NAMES: [&str; 6] =
    ["__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"];

/// Whether nobody put a file there: hidden files, such as macOS's `._cat.jpg` and `.DS_Store`, what
/// Windows and others leave, and all that lies in such folders. `path` has `/` and starts below what the
/// user named, which may be hidden itself.
pub(crate) fn is_clutter(path: &str) -> bool {
    path.split('/').any(|part| {
        let hidden = part.starts_with('.') && !matches!(part, "." | "..");
        hidden || NAMES.iter().any(|name| part.eq_ignore_ascii_case(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_put_there_is_told_from_what_they_did_not() {
        for path in ["._a.jpg", "x/._a.jpg", ".DS_Store", "__MACOSX/x/a.jpg", "THUMBS.DB", "a/.b/c"]
        {
            assert!(is_clutter(path), "{path}");
        }
        for path in ["a.jpg", "./x/a.jpg", "../a.jpg", "_a", "a.b/c"] {
            assert!(!is_clutter(path), "{path}");
        }
    }
}
