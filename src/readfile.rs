//! Files of others, read with care: their size has a limit, what is compressed is called so, and a text
//! is UTF-8 with or without a byte-order mark.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// How compressed files start, what made them and what unpacks them.
const COMPRESSED: [(&[u8], &str, &str); 5] = [
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"PK\x03\x04", "zip", "unzip"),
];

/// The bytes of a file of at most `most` bytes.
///
/// # Errors
/// [`Error::Input`] with the limit if there are more; [`Error::Io`].
pub fn bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let size = file.metadata().map_err(Error::io(path))?.len();
    let mut bytes = vec![];
    if size <= most {
        // what grows meanwhile, or has no size, is cut
        file.take(most + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    }
    let size = size.max(bytes.len() as u64);
    if size > most {
        return Err(Error::input(format!(
            "{}: {size} bytes are too many: at most {most} are read",
            path.display()
        )));
    }
    Ok(bytes)
}

/// The text of a file of at most `most` bytes, without a byte-order mark.
///
/// # Errors
/// As [`bytes`]; [`Error::Input`] if it is compressed or not UTF-8.
pub fn text(path: &Path, most: u64) -> Result<String> {
    let bytes = bytes(path, most)?;
    check_plain(&bytes, path)?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(not_utf8(path, "UTF-16"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(without_mark(&text).to_owned()),
        Err(e) => {
            let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count();
            Err(not_utf8(path, &format!("not UTF-8, in line {line}")))
        }
    }
}

/// Refuses a file that is compressed, by its first bytes.
///
/// # Errors
/// [`Error::Input`] naming the compression; [`Error::Io`].
pub fn refuse_compressed(path: &Path) -> Result<()> {
    let mut start = vec![];
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(8).read_to_end(&mut start).map_err(Error::io(path))?;
    check_plain(&start, path)
}

/// A text without its byte-order mark.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn check_plain(start: &[u8], path: &Path) -> Result<()> {
    match COMPRESSED.iter().find(|(magic, ..)| start.starts_with(magic)) {
        None => Ok(()),
        Some((_, name, unpack)) => Err(Error::input_hint(
            format!("{}: compressed with {name}, which is not read", path.display()),
            format!("unpack it first: {unpack} {}", path.display()),
        )),
    }
}

fn not_utf8(path: &Path, what: &str) -> Error {
    Error::input_hint(
        format!("{}: the text is {what}", path.display()),
        "save it as UTF-8, which editors offer as an encoding",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_utf8_with_or_without_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            text(&path, 100)
        };
        let refused = |bytes: &[u8]| {
            let error = read(bytes).unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            assert!(error.to_string().contains("a.txt"), "{error}");
            format!("{error} {}", error.hint().unwrap_or_default())
        };
        assert_eq!(read("\u{feff}é".as_bytes()).unwrap(), "é");
        assert_eq!(read(b"").unwrap(), "");
        assert!(refused(b"a\nb\xff").contains("not UTF-8, in line 2"));
        assert!(refused(b"\xff\xfea\0").contains("UTF-16"));
        assert!(refused(b"\x1f\x8b\x08").contains("gunzip"));
        assert!(refused(&[b'a'; 101]).contains("at most 100"));
        assert_eq!(text(&dir.path().join("none"), 100).unwrap_err().exit_code(), 4);
    }
}
