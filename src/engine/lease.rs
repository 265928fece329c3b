//! Leases: who is at a stage, on a file system that several machines share.
//!
//! A lease is a file in the store's `leases/`, called after the stage, which only one run can create. Its
//! holder writes a new number into it every few seconds. Who wants the stage looks at the file now and
//! then: if it has not changed for [`PATIENCE`], the holder is dead, and the stage is whose that moves
//! the file away. No two clocks are compared, and nothing is asked of the file system but that creating a
//! file that is there fails and that a rename is whole, which NFS and Lustre promise; `flock` there holds
//! within one machine, for everybody, or not at all, as it was mounted.
//!
//! A lease saves work and guards nothing: results are pure functions that are renamed to their place, so
//! that two runs at one stage, which a machine that stood still for a minute can bring about, write the
//! same. Whose lease was taken is told so, and stops.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::key::Key;
use super::store::read_if_there;
use crate::{Error, Result, process};

/// How often a holder writes.
const BEAT: Duration = Duration::from_secs(5);
/// A holder that has not written for so long is dead. Network file systems stand still for seconds when a
/// server is busy, and show what others wrote up to a few seconds late.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of files that are moved out of the way, for the moment until they are removed.
const AWAY: &str = "away";

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// A word for the run that no other has.
    run: String,
    /// Which start of which machine.
    boot: String,
    /// What its machine is called.
    pub node: String,
    /// The process's number there.
    pub pid: u32,
    /// The queue's number of the job, if it is one.
    pub job: Option<String>,
    /// Whether the holder keeps the file locked, too: its machine then knows at once when it is dead.
    locked: bool,
}

impl Holder {
    /// This process, as a run of its own.
    fn here() -> Self {
        let mut word = [0u8; 8];
        // without it the number of the process is what tells two runs of a machine apart
        let _ = getrandom::fill(&mut word);
        Holder {
            run: format!("{}-{:016x}", std::process::id(), u64::from_ne_bytes(word)),
            boot: process::boot(),
            node: process::node(),
            pid: std::process::id(),
            job: process::job(),
            locked: false,
        }
    }

    fn is_same_machine(&self, other: &Holder) -> bool {
        (&self.boot, &self.node) == (&other.boot, &other.node)
    }
}

/// For people: `process 17 on n2, job 5_1`.
impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.node)?;
        self.job.iter().try_for_each(|job| write!(f, ", job {job}"))
    }
}

/// What a lease's file says: its holder, and the number that changes.
fn holder_in(text: &str) -> Option<Holder> {
    serde_json::from_str(text.lines().next()?).ok()
}

/// Who is at a stage of the store with these leases, as far as its file tells: it may be dead.
pub fn holder(folder: &Path, key: &Key) -> Option<Holder> {
    holder_in(&fs::read_to_string(folder.join(key.short())).ok()?)
}

/// The leases of a run.
pub struct Leases {
    shared: Arc<Shared>,
    heart: Option<JoinHandle<()>>,
}

struct Shared {
    folder: PathBuf,
    me: Holder,
    beat: Duration,
    patience: Duration,
    /// Leases of others: what they said when they were last looked at, and since when.
    seen: Mutex<HashMap<PathBuf, (String, Instant)>>,
    held: Mutex<HashMap<PathBuf, Held>>,
    ended: (Mutex<bool>, Condvar),
}

struct Held {
    file: File,
    holder: Holder,
    beats: u64,
    /// Its file was not there when it was last looked at.
    absent: bool,
    lost: Arc<AtomicBool>,
}

/// Keeps others from a stage until it is dropped.
pub struct Lease {
    path: PathBuf,
    lost: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Lease {
    /// Another run took it for dead, and has the stage.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Becomes true when it is lost.
    pub fn told(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lost)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // its file stays locked until it is gone
        let _held = lock(&self.shared.held).remove(&self.path);
        if let Ok(Some(text)) = read_if_there(&self.path)
            && self.shared.is_mine(&text)
        {
            // what cannot be removed is taken for dead
            let _ = self.shared.move_away(&self.path, &|text| self.shared.is_mine(text));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases {
    /// Those of this process in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn enter(folder: &Path) -> Result<Self> {
        Leases::enter_as(folder, Holder::here(), BEAT, PATIENCE)
    }

    fn enter_as(folder: &Path, me: Holder, beat: Duration, patience: Duration) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        for entry in fs::read_dir(folder).map_err(Error::io(folder))?.flatten() {
            // of a machine that died between a rename and a removal
            if entry.path().extension().is_some_and(|e| e == AWAY) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            me,
            beat,
            patience,
            seen: Mutex::default(),
            held: Mutex::default(),
            ended: Default::default(),
        });
        let heart = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.live()
        });
        Ok(Leases { shared, heart: Some(heart) })
    }

    /// Takes the lease of a stage, if nobody alive has it. To find out that a holder is dead it must be
    /// asked again and again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn take(&self, key: &Key) -> Result<Option<Lease>> {
        let path = self.shared.folder.join(key.short());
        if let Some(lease) = self.shared.create(&path)? {
            return Ok(Some(lease));
        }
        // released since; the next time then
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        if self.shared.is_mine(&text) || !self.shared.is_dead(&path, &text) {
            return Ok(None);
        }
        if !self.shared.move_away(&path, &|now| now == text)? {
            return Ok(None);
        }
        let who = holder_in(&text).map_or("nobody who said so".into(), |who| who.to_string());
        tracing::warn!("{}: {who} is dead; its stage is taken over", path.display());
        self.shared.create(&path)
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        *lock(&self.shared.ended.0) = true;
        self.shared.ended.1.notify_all();
        if let Some(heart) = self.heart.take() {
            let _ = heart.join();
        }
    }
}

impl Shared {
    /// Creates a lease's file; nothing if there is one.
    fn create(self: &Arc<Self>, path: &Path) -> Result<Option<Lease>> {
        let file = fs::File::options().write(true).create_new(true).open(path);
        let file = match file {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            Err(e) => return Err(Error::io(path)(e)),
        };
        // before it is written, so that nobody asks for the lock of a file that says it has one
        let locked = file.try_lock().is_ok();
        let holder = Holder { locked, ..self.me.clone() };
        let lost = Arc::new(AtomicBool::new(false));
        let mut held = Held { file, holder, beats: 0, absent: false, lost: Arc::clone(&lost) };
        if let Err(e) = held.beat() {
            let _ = fs::remove_file(path);
            return Err(Error::io(path)(e));
        }
        lock(&self.held).insert(path.to_owned(), held);
        lock(&self.seen).remove(path);
        Ok(Some(Lease { path: path.to_owned(), lost, shared: Arc::clone(self) }))
    }

    fn is_mine(&self, text: &str) -> bool {
        holder_in(text).is_some_and(|who| who.run == self.me.run)
    }

    /// Whether who wrote `text` is dead, as far as this run has seen.
    fn is_dead(&self, path: &Path, text: &str) -> bool {
        if let Some(holder) = holder_in(text)
            && holder.locked
            && holder.is_same_machine(&self.me)
            && let Ok(file) = File::open(path)
        {
            return file.try_lock().is_ok();
        }
        let mut seen = lock(&self.seen);
        match seen.get(path) {
            Some((before, since)) if before == text => since.elapsed() >= self.patience,
            _ => {
                seen.insert(path.to_owned(), (text.to_owned(), Instant::now()));
                false
            }
        }
    }

    /// Removes a lease that says what is `meant`. Of several that try only one succeeds, since only one
    /// rename finds the file; what turns out to be another's, who was faster, is put back.
    fn move_away(&self, path: &Path, meant: &dyn Fn(&str) -> bool) -> Result<bool> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let away = self.folder.join(format!("{name}.{}.{AWAY}", self.me.run));
        match fs::rename(path, &away) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io(path)(e)),
        }
        let found = read_if_there(&away)?.is_some_and(|text| meant(&text));
        if !found {
            // where this cannot be done its holder sees that it has lost it
            let _ = fs::hard_link(&away, path);
        }
        let _ = fs::remove_file(&away);
        Ok(found)
    }

    /// Writes into what is held, and looks whether it still is, until the run ends.
    fn live(&self) {
        let mut ended = lock(&self.ended.0);
        while !*ended {
            let waited = self.ended.1.wait_timeout(ended, self.beat);
            ended = waited.unwrap_or_else(PoisonError::into_inner).0;
            for (path, held) in lock(&self.held).iter_mut() {
                if let Err(e) = held.beat() {
                    tracing::warn!("{}: {e}", path.display());
                }
                held.look(path, &self.me);
            }
        }
    }
}

impl Held {
    /// Writes the next number, over the one before: a full disk has room for it.
    fn beat(&mut self) -> std::io::Result<()> {
        self.beats += 1;
        let holder = serde_json::to_string(&self.holder).unwrap_or_default();
        self.file.rewind()?;
        // of one length always
        self.file.write_all(format!("{holder}\n{:020}\n", self.beats).as_bytes())?;
        self.file.sync_data()
    }

    fn look(&mut self, path: &Path, me: &Holder) {
        let lost = match read_if_there(path) {
            Ok(Some(text)) => holder_in(&text).is_some_and(|who| who.run != me.run),
            // moved away; perhaps by mistake, to be put back at once
            Ok(None) => std::mem::replace(&mut self.absent, true),
            Err(_) => return,
        };
        if lost && !self.lost.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{}: this run stood still for so long that another has taken over",
                path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests;
