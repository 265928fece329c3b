//! Runs that use a store at the same time.

use std::fs;
use std::path::PathBuf;

use super::store::Store;
use crate::{Error, Result};

/// Says to other processes, until it is dropped, that a run uses a store: a locked file.
pub struct Presence {
    folder: PathBuf,
    file: tempfile::NamedTempFile,
}

impl Presence {
    /// Enters a store.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn enter(store: &Store) -> Result<Self> {
        let folder = store.root().join("locks/runs");
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let file = tempfile::Builder::new().prefix("run-").tempfile_in(&folder);
        let file = file.map_err(Error::io(&folder))?;
        file.as_file().lock().map_err(Error::io(file.path()))?;
        Ok(Presence { folder, file })
    }

    /// How many other runs use the store now.
    pub fn others(&self) -> usize {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let others = entries.map(|e| e.path()).filter(|path| path != self.file.path());
        let busy = |path: &PathBuf| {
            let Ok(file) = fs::File::open(path) else { return false };
            let busy = matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock));
            if !busy {
                // of a process that was killed
                let _ = fs::remove_file(path);
            }
            busy
        };
        others.filter(busy).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_see_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = Presence::enter(&store).unwrap();
        assert_eq!(first.others(), 0);
        let second = Presence::enter(&store).unwrap();
        assert_eq!((first.others(), second.others()), (1, 1));
        drop(second);
        // one that was killed is none
        fs::write(dir.path().join("locks/runs/run-killed"), "").unwrap();
        assert_eq!(first.others(), 0);
    }
}
