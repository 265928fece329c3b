//! Where results are kept: a folder for each stage, named after its key.
//!
//! ```text
//! store.json                     version of the layout
//! leases/<key>                   who is at a stage now
//! leases/runs/                   runs, as those of the same machine see them
//! failed/<key>.json              why a stage could not be made, the last time
//! <kind>/<key>/stage.json        what it means and how it was made; written last
//! <kind>/<key>/…                 the files
//! work/<key>/                    states of what is not finished
//! names/<name>.json              the key a name had last, to say what changed
//! rates.json                     how long things took, for estimates
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::key::{Key, hex};
use super::lease::{self, Holder};
use super::stage::Stage;
use crate::{Error, Result, process, safefile};

/// Of the layout. A store of a newer version is left alone. Version 1 had locks of the file system in the
/// place of leases: a program that knows those alone must not run beside one that does not look at them.
const VERSION: u32 = 2;

/// In a stage's folder: how it came to be.
const STAGE: &str = "stage.json";

/// A store of results.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// How an artifact came to be: `stage.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Provenance {
    /// `checkpoint`, `samples`, …
    pub kind: String,
    /// For people.
    pub name: String,
    /// The hash of `meaning`.
    pub key: Key,
    /// Everything that the artifact depends on.
    pub meaning: Value,
    /// The artifacts it was made from.
    pub inputs: Vec<Key>,
    /// The program's version and revision.
    pub software: String,
    /// What it ran on.
    pub machine: String,
    /// When it was finished, in seconds since 1970.
    pub finished: u64,
    /// How long it took, over all interruptions where that is known.
    pub seconds: f64,
    /// The most memory the process held meanwhile, in MB.
    pub peak_mb: f64,
    /// Of all files.
    pub bytes: u64,
    /// How many stages ran at most at the same time, those of other runs on the store counted as one a
    /// run: seconds and memory say something about this one where it was alone.
    #[serde(default = "alone")]
    pub jobs: usize,
}

/// Of what was made before anyone counted.
fn alone() -> usize {
    1
}

#[derive(Serialize, Deserialize)]
struct StoreFile {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Named {
    key: Key,
    meaning: Value,
}

impl Store {
    /// Opens the store at `root`, or makes it.
    ///
    /// # Errors
    /// [`Error::Input`] for a store of a newer version, or a `store.json` that is none; [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self> {
        let file = root.join("store.json");
        match read_if_there(&file)? {
            Some(text) => {
                let found: StoreFile = serde_json::from_str(&text).map_err(|e| {
                    Error::input_hint(
                        format!("{}: not a store of cdbench: {e}", file.display()),
                        "name another folder with --store",
                    )
                })?;
                if found.version > VERSION {
                    return Err(Error::input_hint(
                        format!(
                            "{}: the store has version {}, this program knows {VERSION}",
                            file.display(),
                            found.version
                        ),
                        "use a newer cdbench, or another folder with --store",
                    ));
                }
            }
            None => {
                fs::create_dir_all(root).map_err(Error::io(root))?;
                write_version(&file)?;
            }
        }
        Ok(Store { root: root.to_owned() })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a stage's files.
    pub fn dir(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(key.short())
    }

    /// The folder of a stage's states while it runs.
    pub fn work_dir(&self, key: &Key) -> PathBuf {
        self.root.join("work").join(key.short())
    }

    /// Removes the states of a stage that is finished.
    pub fn forget_work(&self, key: &Key) {
        // what cannot be removed is only in the way
        let _ = fs::remove_dir_all(self.work_dir(key));
    }

    /// The folder of what can be made again at any time: embedded captions, exported models.
    pub fn cache_dir(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// How a finished stage came to be; `None` if it is not finished, or what says so is damaged: it is
    /// made again then.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn provenance(&self, kind: &str, key: &Key) -> Result<Option<Provenance>> {
        let path = self.dir(kind, key).join(STAGE);
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        match serde_json::from_str::<Provenance>(&text) {
            Ok(found) if found.key == *key => Ok(Some(found)),
            _ => {
                tracing::warn!("{}: damaged; the stage is made again", path.display());
                Ok(None)
            }
        }
    }

    /// Whether a finished stage has all that it was finished with: nothing was cut or deleted since.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_whole(&self, kind: &str, key: &Key) -> Result<bool> {
        match self.provenance(kind, key)? {
            Some(found) => Ok(found.bytes == bytes_below(&self.dir(kind, key))?),
            None => Ok(false),
        }
    }

    /// Sees what other machines wrote for a stage. Network file systems remember for up to a minute that a
    /// file is not there; a folder that this machine has changed itself is asked about again.
    pub fn look_again(&self, kind: &str, key: &Key) {
        for folder in [self.root.join(kind), self.dir(kind, key)] {
            // where it cannot be done, a stage is made twice at worst
            let _ = safefile::touch(&folder);
        }
    }

    /// Writes `stage.json`, which makes the stage finished.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(&self, provenance: &Provenance) -> Result<()> {
        let dir = self.dir(&provenance.kind, &provenance.key);
        let mut provenance = provenance.clone();
        provenance.bytes = bytes_below(&dir)?;
        let text = serde_json::to_string_pretty(&provenance).unwrap_or_default();
        safefile::write(&dir.join(STAGE), text + "\n")
    }

    /// Makes a store of an older version one of this, before anything is run in it: programs of that
    /// version leave it alone then.
    ///
    /// # Errors
    /// [`Error::Input`] while one of them runs in it, as far as this machine sees its locks;
    /// [`Error::Io`].
    pub fn upgrade(&self) -> Result<()> {
        let path = self.root.join("store.json");
        let text = read_if_there(&path)?.unwrap_or_default();
        let found = serde_json::from_str::<StoreFile>(&text).map_or(VERSION, |found| found.version);
        if found >= VERSION {
            return Ok(());
        }
        let runs = fs::read_dir(self.root.join("locks/runs")).into_iter().flatten().flatten();
        let is_alive = |path: PathBuf| {
            let file = fs::File::open(path);
            file.is_ok_and(|f| matches!(f.try_lock(), Err(fs::TryLockError::WouldBlock)))
        };
        if runs.map(|run| run.path()).any(is_alive) {
            return Err(Error::input_hint(
                format!(
                    "{}: a run of an older cdbench uses the store, which has version {found}; this \
                     program makes it version {VERSION}",
                    self.root.display()
                ),
                "wait until it has ended, or name another folder with --store",
            ));
        }
        write_version(&path)
    }

    /// Where runs say that they are there.
    pub fn runs_dir(&self) -> PathBuf {
        self.leases_dir().join("runs")
    }

    /// The run that is at a stage, as far as its lease tells: it may be dead.
    pub fn holder(&self, stage: &Stage) -> Option<Holder> {
        lease::holder(&self.leases_dir(), &stage.folder)
    }

    /// Where runs say which stages they are at.
    pub fn leases_dir(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// What `name` meant when it was last finished.
    pub fn last_meaning(&self, name: &str) -> Option<(Key, Value)> {
        let text = fs::read_to_string(self.name_file(name)).ok()?;
        serde_json::from_str::<Named>(&text).ok().map(|n| (n.key, n.meaning))
    }

    /// Remembers what `name` means.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remember(&self, name: &str, key: &Key, meaning: &Value) -> Result<()> {
        let named = Named { key: key.clone(), meaning: meaning.clone() };
        safefile::write(&self.name_file(name), serde_json::to_string(&named).unwrap_or_default())
    }

    fn name_file(&self, name: &str) -> PathBuf {
        self.root.join("names").join(format!("{}.json", &hex(name)[..24]))
    }

    /// Seconds for a unit of work, as it was last measured.
    pub fn rates(&self) -> BTreeMap<String, f64> {
        let text = read_if_there(&self.root.join("rates.json")).ok().flatten();
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Remembers seconds for a unit of work.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn set_rate(&self, what: &str, seconds: f64) -> Result<()> {
        let mut rates = self.rates();
        let old = rates.get(what).copied().unwrap_or(seconds);
        rates.insert(what.to_owned(), 0.5 * old + 0.5 * seconds);
        let text = serde_json::to_string_pretty(&rates).unwrap_or_default();
        safefile::write(&self.root.join("rates.json"), text)
    }

    /// Where the hashes of files are kept.
    pub fn hashes(&self) -> PathBuf {
        self.cache_dir().join("hashes")
    }
}

fn write_version(file: &Path) -> Result<()> {
    let text = serde_json::to_string(&StoreFile { version: VERSION });
    safefile::write(file, text.unwrap_or_default() + "\n")
}

/// The hash of a file, read once for each size and time of change; `cache` is where hashes are kept.
///
/// # Errors
/// [`Error::Io`].
pub fn file_hash(path: &Path, cache: &Path) -> Result<String> {
    let meta = fs::metadata(path).map_err(Error::io(path))?;
    let changed = process::changed_since_1970(&meta);
    let full = fs::canonicalize(path).map_err(Error::io(path))?;
    let name = format!("{} {} {changed:?}", full.display(), meta.len());
    let cached = cache.join(&hex(&name)[..24]);
    if let Ok(hash) = fs::read_to_string(&cached)
        && hash.len() == 64
    {
        return Ok(hash);
    }
    let mut file = fs::File::open(path).map_err(Error::io(path))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(Error::io(path))?;
    let hash = format!("{:x}", hasher.finalize());
    safefile::write(&cached, &hash)?;
    Ok(hash)
}

/// A file's text, `None` if there is no such file.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>> {
    read_again(|| fs::read_to_string(path)).map_err(Error::io(path))
}

/// What `read` gives, `None` if there is no such file. On NFS a file can go, or be replaced, between its
/// opening and its reading, by another machine: who opens it again sees what is there now.
fn read_again(mut read: impl FnMut() -> io::Result<String>) -> io::Result<Option<String>> {
    // none is replaced so often
    let mut tries = 10;
    loop {
        tries -= 1;
        match read() {
            Ok(text) => return Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::StaleNetworkFileHandle && tries > 0 => {}
            Err(e) => return Err(e),
        }
    }
}

/// The size of a stage's files, but for what says how they came to be and those that a killed run left
/// half written.
pub(super) fn bytes_below(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let path = entry.path();
        // those that another run is writing come and go
        if safefile::is_partial(&path) || path.ends_with(STAGE) {
            continue;
        }
        let meta = entry.metadata().map_err(Error::io(&path))?;
        sum += if meta.is_dir() { bytes_below(&path)? } else { meta.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn provenance(meaning: Value) -> Provenance {
        Provenance {
            kind: "checkpoint".into(),
            name: "train".into(),
            key: Key::of(&meaning),
            meaning,
            inputs: vec![],
            software: String::new(),
            machine: String::new(),
            finished: 0,
            seconds: 1.0,
            peak_mb: 1.0,
            bytes: 0,
            jobs: 1,
        }
    }

    #[test]
    fn a_file_that_goes_or_is_replaced_while_it_is_read_is_opened_again() {
        let stale = || io::Error::from(io::ErrorKind::StaleNetworkFileHandle);
        let reads = |mut answers: Vec<io::Result<String>>| {
            read_again(|| answers.pop().unwrap_or_else(|| Err(stale())))
        };
        assert_eq!(reads(vec![Ok("new".into()), Err(stale())]).unwrap(), Some("new".into()));
        let gone = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(reads(vec![Err(gone), Err(stale()), Err(stale())]).unwrap(), None);
        // a server that says nothing else does not hold a run for ever
        assert_eq!(reads(vec![]).unwrap_err().kind(), io::ErrorKind::StaleNetworkFileHandle);
    }

    #[test]
    fn a_stage_is_finished_once_its_provenance_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let made = provenance(json!({"a": 1}));
        let folder = store.dir(&made.kind, &made.key);
        assert!(store.provenance("checkpoint", &made.key).unwrap().is_none());
        safefile::write(&folder.join("x"), "12345").unwrap();
        fs::write(folder.join(".killed.tmp"), "123").unwrap();
        assert!(store.provenance("checkpoint", &made.key).unwrap().is_none());
        store.finish(&made).unwrap();
        assert_eq!(store.provenance("checkpoint", &made.key).unwrap().unwrap().bytes, 5);
        fs::write(folder.join(STAGE), "{").unwrap();
        assert!(store.provenance("checkpoint", &made.key).unwrap().is_none());
    }

    #[test]
    fn what_was_cut_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let made = provenance(json!({"a": 1}));
        let file = store.dir(&made.kind, &made.key).join("x");
        let is_whole = || store.is_whole("checkpoint", &made.key).unwrap();
        safefile::write(&file, "12345").unwrap();
        assert!(!is_whole());
        // again, with what says so already there
        for _ in 0..2 {
            store.finish(&made).unwrap();
            assert!(is_whole());
        }
        fs::write(&file, "123").unwrap();
        assert!(!is_whole());
        fs::remove_file(&file).unwrap();
        assert!(!is_whole());
    }

    #[test]
    fn newer_stores_and_other_folders_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("store.json"), r#"{"version": 99}"#).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("version 99"), "{error}");
        fs::write(dir.path().join("store.json"), "hello").unwrap();
        assert_eq!(Store::open(dir.path()).unwrap_err().exit_code(), 3);
    }

    /// The version before had locks that this one does not look at.
    #[test]
    fn a_store_is_not_shared_with_a_run_of_an_older_version() {
        let dir = tempfile::tempdir().unwrap();
        let version = || fs::read_to_string(dir.path().join("store.json")).unwrap();
        fs::write(dir.path().join("store.json"), r#"{"version": 1}"#).unwrap();
        let runs = dir.path().join("locks/runs");
        fs::create_dir_all(&runs).unwrap();
        fs::write(runs.join("run-killed"), "").unwrap();
        let run = fs::File::create(runs.join("run-alive")).unwrap();
        run.lock().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let error = store.upgrade().unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("older cdbench") && version().contains('1'), "{error}");
        drop(run);
        store.upgrade().unwrap();
        // which a program that knows version 1 refuses
        assert_eq!(version(), "{\"version\":2}\n");
    }

    #[test]
    fn a_changed_file_has_another_hash() {
        let dir = tempfile::tempdir().unwrap();
        let (file, cache) = (dir.path().join("f"), dir.path().join("cache"));
        fs::write(&file, "one").unwrap();
        let one = file_hash(&file, &cache).unwrap();
        assert_eq!(one, file_hash(&file, &cache).unwrap());
        fs::write(&file, "three").unwrap();
        assert_ne!(one, file_hash(&file, &cache).unwrap());
    }
}
