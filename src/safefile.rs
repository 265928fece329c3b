//! Files that are whole or not there: an interrupted or failed write never leaves half a file under
//! the final name.

use std::io::{BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// Around the names of files that are not whole yet.
const PARTIAL: (&str, &str) = (".", ".tmp");

/// Whether a file is one that a killed process left half written.
pub fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(PARTIAL.0) && name.ends_with(PARTIAL.1)
}

/// Writes `path` through `fill`: into a temporary file in the same folder, then to disk, then
/// under its name. Missing parent folders are created.
///
/// # Errors
/// What `fill` returns, or [`Error::Io`] naming `path`; the old file, if any, is untouched then.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(PARTIAL.0).suffix(PARTIAL.1);
    // temporary files are private by default; this one becomes an ordinary file
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder).map_err(Error::io(path))?;

    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| Error::io(path)(e.into_error()))?;
    file.as_file().sync_all().map_err(Error::io(path))?;
    file.persist(path).map_err(|e| Error::io(path)(e.error))?;
    // the rename itself is only on disk once the folder is
    #[cfg(unix)]
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))?;
    Ok(())
}

/// Writes `bytes` to `path`, as [`write_with`] does.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    write_with(path, |out| out.write_all(bytes.as_ref()).map_err(Error::io(path)))
}

/// Changes a folder, and leaves nothing in it.
///
/// # Errors
/// The system's.
pub fn touch(folder: &Path) -> std::io::Result<()> {
    let file = tempfile::Builder::new().prefix(PARTIAL.0).suffix(PARTIAL.1).tempfile_in(folder)?;
    file.close()
}

/// Whether a model can be written into the folder `to`.
///
/// # Errors
/// [`Error::Input`] if it is a file, or not empty, unless `force` allows to write over what is in it;
/// [`Error::Io`].
pub fn check_room(to: &Path, force: bool) -> Result<()> {
    if to.exists() && !to.is_dir() {
        return Err(Error::input(format!("{}: this is no folder", to.display())));
    }
    let empty = match std::fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) => return Err(Error::io(to)(e)),
    };
    if !empty && !force {
        return Err(Error::input_hint(
            format!("{}: the folder is not empty", to.display()),
            "name another, or use --force to write over the files of a model in it",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_old_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/a.txt");
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write(&path, "old").unwrap();
        let failed = write_with(&path, |out| {
            out.write_all(b"half").unwrap();
            Err(Error::input("stopped"))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write(&path, "x").unwrap();
        let plain = dir.path().join("b.txt");
        std::fs::write(&plain, "x").unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }
}
