//! Programs of others, run to their end: with a limit in time, stopped with all that they started, measured.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// A program to run.
pub struct Order<'a> {
    /// The program, and its arguments.
    pub args: &'a [String],
    /// Where it runs; a program that is named by a path is looked for from here.
    pub folder: &'a Path,
    /// The folder that keeps what it says: `stdout.txt` and `stderr.txt`.
    pub said: &'a Path,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Ends it when it is set.
    pub stop: &'a AtomicBool,
}

/// Between two looks at a program that runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a program has to end itself before it is ended.
const GRACE: Duration = Duration::from_secs(2);
/// Lines of what it said last that errors show, and the most letters of them.
const LINES: usize = 10;
const LETTERS: u64 = 4096;

impl Order<'_> {
    /// Runs it, and gives the most memory that one of its processes held, where the system tells.
    /// `meanwhile` is called again and again.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such program, it does not end in time, or ends otherwise than well,
    /// with the last lines that it said; [`Error::Interrupted`]; [`Error::Io`].
    pub fn run(&self, meanwhile: &mut dyn FnMut()) -> Result<Option<u64>> {
        let (name, args) = self.args.split_first().ok_or_else(|| Error::input("no program"))?;
        let mut program = PathBuf::from(name);
        if program.components().count() > 1 {
            let from_there = self.folder.join(&program);
            program = std::path::absolute(&from_there).map_err(Error::io(&from_there))?;
        }
        std::fs::create_dir_all(self.said).map_err(Error::io(self.said))?;
        let create = |name: &str| {
            let path = self.said.join(name);
            File::create(&path).map_err(Error::io(&path))
        };
        let mut command = Command::new(&program);
        command.args(args).stdin(Stdio::null());
        command.stdout(create("stdout.txt")?).stderr(create("stderr.txt")?);
        if self.folder.components().next().is_some() {
            command.current_dir(self.folder);
        }
        let mut running = Running::start(&mut command).map_err(|e| self.not_there(&program, e))?;
        let start = Instant::now();
        let ended = loop {
            if running.has_ended()? {
                break running.reap()?;
            }
            meanwhile();
            if self.stop.load(Ordering::Relaxed) {
                running.end();
                return Err(Error::Interrupted);
            }
            if let Some(limit) = self.timeout
                && start.elapsed() >= limit
            {
                running.end();
                return Err(self.failed(
                    &format!("no end after {} s, so it was ended", limit.as_secs_f64()),
                    "give it more time with `timeout`, in seconds, or take `timeout` away",
                ));
            }
            std::thread::sleep(LOOK_EVERY);
        };
        match ended.failure {
            None => Ok(ended.peak),
            Some(how) => {
                let hint = format!("all that it said is in {}", self.said.display());
                Err(self.failed(&format!("it ended with {how}"), &hint))
            }
        }
    }

    fn not_there(&self, program: &Path, error: std::io::Error) -> Error {
        if !self.folder.as_os_str().is_empty() && !self.folder.is_dir() {
            return Error::io(self.folder)(error);
        }
        match error.kind() {
            std::io::ErrorKind::NotFound => Error::input_hint(
                format!("there is no program `{}`", program.display()),
                "a name is looked for in PATH, a path starts at the experiment's folder",
            ),
            _ => Error::input(format!("`{}` cannot be run: {error}", program.display())),
        }
    }

    fn failed(&self, what: &str, hint: &str) -> Error {
        let said = tail(&self.said.join("stderr.txt"));
        let said = if said.is_empty() { tail(&self.said.join("stdout.txt")) } else { said };
        let said: String = said.iter().map(|line| format!("\n    {line}")).collect();
        Error::input_hint(format!("{}: {what}{said}", self.args[0]), hint)
    }
}

/// The last lines of a file of any contents.
fn tail(path: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(LETTERS)))?;
        let mut bytes = vec![];
        file.take(LETTERS).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let plain = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let lines: Vec<String> =
        text.lines().map(plain).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].to_vec()
}

/// How a program ended.
struct Ended {
    /// None if well.
    failure: Option<String>,
    peak: Option<u64>,
}

/// A program that runs, with all that it started. Whatever of it is left is ended when this is dropped.
#[cfg(unix)]
struct Running {
    pid: libc::pid_t,
    reaped: bool,
    /// The most memory that it was seen with.
    seen: u64,
    /// What the system counts as a child's memory from before it was another program: ours.
    ours: u64,
    last_look: Option<Instant>,
}

#[cfg(unix)]
impl Running {
    /// Between two looks at its memory, which read a few files.
    const MEASURE_EVERY: Duration = Duration::from_millis(200);

    fn start(command: &mut Command) -> std::io::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let ours = super::most_held("self").unwrap_or(0);
        // a group of its own, so that Ctrl-C reaches it through us alone, and all of it can be ended
        let child = command.process_group(0).spawn()?;
        // it is waited for below, where the system tells what it used
        Ok(Running { pid: child.id() as _, reaped: false, seen: 0, ours, last_look: None })
    }

    fn has_ended(&mut self) -> Result<bool> {
        if self.last_look.is_none_or(|last| last.elapsed() >= Self::MEASURE_EVERY) {
            self.last_look = Some(Instant::now());
            self.seen = self.seen.max(super::most_held_below(self.pid as u32));
        }
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is a valid place for a `siginfo_t`, for which zeros are a value; the process is
        // a child of ours that nobody has waited for.
        let pid = unsafe {
            if libc::waitid(libc::P_PID, self.pid as _, info.as_mut_ptr(), flags) != 0 {
                return Err(Error::io(Path::new("waitid"))(std::io::Error::last_os_error()));
            }
            info.assume_init().si_pid()
        };
        Ok(pid == self.pid)
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: sends a signal to a group that we made and whose first process we have not waited for,
        // so that its number is no other's.
        unsafe { libc::kill(-self.pid, signal) };
    }

    /// Ends it and all that it started: politely at first.
    fn end(&mut self) {
        self.signal(libc::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < GRACE && !self.has_ended().unwrap_or(true) {
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.reap();
    }

    /// Ends what is left of its group, and takes leave of it.
    fn reap(&mut self) -> Result<Ended> {
        use std::os::unix::process::ExitStatusExt as _;
        if !self.reaped {
            self.signal(libc::SIGKILL);
        }
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        let mut status = 0;
        // SAFETY: both are valid places for what is written there, and zeros are values of either type.
        let usage = unsafe {
            let found = libc::wait4(self.pid, &mut status, 0, usage.as_mut_ptr());
            self.reaped = true;
            if found != self.pid {
                return Err(Error::io(Path::new("wait4"))(std::io::Error::last_os_error()));
            }
            usage.assume_init()
        };
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        let most = usage.ru_maxrss as u64 * unit;
        // Linux counts the memory of the program that started it as its own: below that, only what was
        // seen while it ran is known to be its
        let peak = if most > self.ours || self.seen == 0 { most } else { self.seen };
        let status = std::process::ExitStatus::from_raw(status);
        let failure = match (status.success(), status.code(), status.signal()) {
            (true, ..) => None,
            (_, Some(code), _) => Some(format!("exit code {code}")),
            (_, _, Some(signal)) => Some(format!("signal {signal}")),
            _ => Some("no exit code".into()),
        };
        Ok(Ended { failure, peak: Some(peak) })
    }
}

#[cfg(unix)]
impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.reap();
        }
    }
}

/// Elsewhere what it started is not known, and nothing is measured.
#[cfg(not(unix))]
struct Running(std::process::Child);

#[cfg(not(unix))]
impl Running {
    fn start(command: &mut Command) -> std::io::Result<Self> {
        command.spawn().map(Running)
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait().map_err(Error::io(Path::new("a program")))?.is_some())
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    fn reap(&mut self) -> Result<Ended> {
        let status = self.0.wait().map_err(Error::io(Path::new("a program")))?;
        let failure = (!status.success()).then(|| status.to_string());
        Ok(Ended { failure, peak: None })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn run(
        script: &str,
        timeout: Option<f64>,
        stop: &AtomicBool,
    ) -> (Result<Option<u64>>, PathBuf) {
        let dir = tempfile::tempdir().unwrap().keep();
        let args = ["sh", "-c", script].map(str::to_owned);
        let timeout = timeout.map(Duration::from_secs_f64);
        let order = Order { args: &args, folder: &dir, said: &dir.join("said"), timeout, stop };
        (order.run(&mut || {}), dir)
    }

    fn alive(pid: &str) -> bool {
        // a process that nobody has taken leave of yet is dead all the same
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        state.is_ok_and(|state| !state.contains(") Z "))
    }

    #[test]
    fn what_it_says_is_kept_and_what_it_needs_is_measured() {
        let go_on = AtomicBool::new(false);
        let (peak, dir) = run("echo out; echo err >&2; pwd", None, &go_on);
        assert!(peak.unwrap().is_some_and(|bytes| bytes > 0));
        let said = std::fs::read_to_string(dir.join("said/stdout.txt")).unwrap();
        assert!(said.starts_with("out\n/"), "{said}");
        let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i >&2; done; exit 7";
        let error = run(script, None, &go_on).0.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 3);
        assert!(text.contains("exit code 7") && text.contains("line 12"), "{text}");
        assert!(!text.contains("line 2\n"), "the last lines alone: {text}");
        assert!(run("kill -9 $$", None, &go_on).0.unwrap_err().to_string().contains("signal 9"));
    }

    #[test]
    fn it_ends_in_time_with_all_that_it_started() {
        // deaf to the polite signal, as its child is
        let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 1; done' & wait";
        for stopped in [false, true] {
            let stop = AtomicBool::new(false);
            let (outcome, dir) = std::thread::scope(|scope| {
                let running = scope.spawn(|| run(script, (!stopped).then_some(4.5), &stop));
                if stopped {
                    std::thread::sleep(Duration::from_millis(4500));
                    stop.store(true, Ordering::Relaxed);
                }
                running.join().unwrap()
            });
            let error = outcome.unwrap_err();
            match stopped {
                true => assert!(matches!(error, Error::Interrupted)),
                false => assert!(error.to_string().contains("no end after 4.5 s"), "{error}"),
            }
            let child = std::fs::read_to_string(dir.join("child")).unwrap();
            // nobody can be deaf to the last signal, but a system under load takes its time to carry it out
            let sent = Instant::now();
            while alive(&child) && sent.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(LOOK_EVERY);
            }
            assert!(!alive(&child), "{child}");
        }
    }

    #[test]
    fn a_program_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        for name in ["no-such-program", "./no-such-program"] {
            let args = [name.to_owned()];
            let order = Order {
                args: &args,
                folder: dir.path(),
                said: dir.path(),
                timeout: None,
                stop: &stop,
            };
            let error = order.run(&mut || {}).unwrap_err();
            assert!(error.to_string().contains("no-such-program"), "{error}");
            assert!(error.hint().unwrap().contains("PATH"));
        }
    }
}
