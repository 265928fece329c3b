//! Runs that use a store at the same time, on the same machine: they share its cores and its memory.

use std::fs;
use std::path::PathBuf;

use super::store::Store;
use crate::{Error, Result, process};

/// Says to other processes of this machine, until it is dropped, that a run uses a store: a locked file,
/// whose name begins with the machine. Locks of other machines may not be seen here.
pub struct Presence {
    folder: PathBuf,
    machine: String,
    file: tempfile::NamedTempFile,
}

impl Presence {
    /// Enters a store.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn enter(store: &Store) -> Result<Self> {
        let folder = store.runs_dir();
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let machine = format!("{}-", process::boot());
        let file = tempfile::Builder::new().prefix(&machine).tempfile_in(&folder);
        let file = file.map_err(Error::io(&folder))?;
        // where the file system has no locks, a run is alone as far as anybody can tell
        let _ = file.as_file().try_lock();
        Ok(Presence { folder, machine, file })
    }

    /// How many other runs of this machine use the store now.
    pub fn others(&self) -> usize {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let here = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(&self.machine);
        let here = entries.filter(|e| here(&e.file_name())).map(|e| e.path());
        let others = here.filter(|path| path != self.file.path());
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
        let killed = store.runs_dir().join(format!("{}-killed", process::boot()));
        fs::write(&killed, "").unwrap();
        assert!(first.others() == 0 && !killed.exists());
        // and one of another machine is that machine's business
        let far = store.runs_dir().join("far-away");
        fs::write(&far, "").unwrap();
        assert!(first.others() == 0 && far.exists());
    }
}
