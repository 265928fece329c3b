//! What systems, and this program, leave among people's pictures.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Names of files and folders, in any case.
const NAMES: [&str; 6] =
    ["__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"];

/// At the end of the names of drawings beside images.
const ATTENTION: &str = "-attention";

/// Whether nobody put a file there: hidden files, such as macOS's `._cat.jpg` and `.DS_Store`, what
/// Windows and others leave, and all that lies in such folders. `path` has `/` and starts below what the
/// user named, which may be hidden itself.
pub(crate) fn is_clutter(path: &str) -> bool {
    path.split('/').any(|part| {
        let hidden = part.starts_with('.') && !matches!(part, "." | "..");
        hidden || NAMES.iter().any(|name| part.eq_ignore_ascii_case(name))
    })
}

/// Where `cdbench sample --attention` draws what an image attends to: `dog-attention.png` beside `dog.png`.
pub(crate) fn attention_beside(image: &Path) -> PathBuf {
    let part = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(image.file_stem()), part(image.extension()));
    image.with_file_name(format!("{stem}{ATTENTION}.{extension}"))
}

/// Whether a picture is such a drawing, and no picture to learn from or to judge: the image is beside it.
pub(super) fn is_attention(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let image = name.rsplit_once('.').and_then(|(stem, extension)| {
        let stem = stem.strip_suffix(ATTENTION).filter(|stem| !stem.is_empty())?;
        let png = extension.eq_ignore_ascii_case("png");
        png.then(|| path.with_file_name(format!("{stem}.{extension}")))
    });
    image.is_some_and(|image| image.is_file())
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

    #[test]
    fn drawings_are_told_by_the_image_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["dog.png", "dog-attention.png", "cat-attention.png", "dog-attention.jpg"] {
            std::fs::write(path(name), "").unwrap();
        }
        assert_eq!(attention_beside(&path("dog.png")), path("dog-attention.png"));
        assert!(is_attention(&path("dog-attention.png")));
        for name in ["dog.png", "cat-attention.png", "dog-attention.jpg", "-attention.png"] {
            assert!(!is_attention(&path(name)), "{name}");
        }
    }
}
