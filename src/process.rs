//! This process: how it keeps memory and threads, and what it has used.

mod child;

use std::path::Path;

pub use child::Order;

/// Settings for a program that trains and samples; call it first thing in `main`, in a program whose
/// global allocator is mimalloc.
///
/// Freed memory is kept for reuse: tensors of a few megabytes come and go thousands of times a second,
/// and giving them back to the system in between costs a fifth of a training step in page faults.
/// candle's own threads are switched off: they would wait for each other on processors that are busy
/// with parts of a batch, which costs a third of a step. NVIDIA's libraries are told to compute f32 in f32
/// unless `--tf32` asks for less: convolutions would not, by default, and they read it once, early on.
pub fn prepare() {
    // mimalloc's header numbers it; the bindings have no name for it.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const NEVER: std::ffi::c_long = -1;
    // SAFETY: sets a number inside the allocator, which is made for this call at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) }
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: no other thread exists yet that could read the environment.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") }
    }
    let tf32 = std::env::args_os().any(|arg| arg == "--tf32");
    if !tf32 && std::env::var_os("NVIDIA_TF32_OVERRIDE").is_none() {
        // SAFETY: as above
        unsafe { std::env::set_var("NVIDIA_TF32_OVERRIDE", "0") }
    }
}

/// Lets [`peak_memory`] begin anew from what is held now, where the system can (Linux).
pub fn forget_peak_memory() {
    // elsewhere, and where it is forbidden, the peak is that of the whole process
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory this process has held, in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is a valid place for a `rusage`, whose fields are all plain integers.
        let usage = unsafe {
            if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
                return None;
            }
            usage.assume_init()
        };
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        Some(usage.ru_maxrss as u64 * unit)
    }
    #[cfg(not(unix))]
    None
}

/// The most memory that a process, by its number or `self`, has held since it runs its program, in bytes.
fn most_held(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| 1024 * kib)
}

/// The same of whichever held most of a process and those that it started, as far as they run.
fn most_held_below(process: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let started = tasks.flat_map(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<u32>>()
    });
    let below = started.map(most_held_below).max().unwrap_or(0);
    below.max(most_held(&process.to_string()).unwrap_or(0))
}

/// How much memory the machine has, and how much of it is free, in bytes, where the system tells (Linux).
pub fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kilobytes("MemTotal")? << 10, kilobytes("MemAvailable")? << 10))
}

/// What of the processor the kernels choose by.
pub fn processor_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
        ];
        found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        vec!["neon"]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        vec![]
    }
}

/// How many bytes this process can still write where `folder` is, where the system tells.
pub fn free_space(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
        let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: `path` ends with a zero, and `found` is a valid place for a `statvfs`, whose fields are
        // all plain integers.
        let found = unsafe {
            if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
                return None;
            }
            found.assume_init()
        };
        // the types of the fields differ between systems
        #[allow(clippy::unnecessary_cast)]
        Some(found.f_bavail as u64 * found.f_frsize as u64)
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// The program, its version and, where it lies in the repository it was built from, the revision.
pub fn software() -> String {
    static SOFTWARE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let found = SOFTWARE.get_or_init(|| {
        let version = concat!("cdbench ", env!("CARGO_PKG_VERSION"));
        let revision = || {
            let here = std::env::current_exe().ok()?;
            let run = |args: &[&str]| {
                let mut git = std::process::Command::new("git");
                git.args(args).current_dir(here.parent()?).stderr(std::process::Stdio::null());
                let out = git.output().ok()?;
                out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
            };
            let head = run(&["rev-parse", "--short=12", "HEAD"])?;
            let changed = !run(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
            Some(format!("{version} ({head}{})", if changed { ", changed" } else { "" }))
        };
        revision().unwrap_or_else(|| version.to_owned())
    });
    found.clone()
}

/// Lets SIGUSR1 set `flag`, where there is one: what queues are asked to send before a job's time is over
/// ends a process that does not know it.
pub fn stop_by_user_signal(flag: &'static std::sync::atomic::AtomicBool) {
    #[cfg(unix)]
    {
        use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
        static FLAG: AtomicPtr<AtomicBool> = AtomicPtr::new(std::ptr::null_mut());
        extern "C" fn set(_: libc::c_int) {
            // SAFETY: it was stored before this function was, from a reference that lives for ever.
            unsafe { &*FLAG.load(Ordering::SeqCst) }.store(true, Ordering::SeqCst);
        }
        FLAG.store(std::ptr::from_ref(flag).cast_mut(), Ordering::SeqCst);
        // SAFETY: the handler stores into an atomic, which a handler may do at any moment.
        unsafe {
            libc::signal(libc::SIGUSR1, set as extern "C" fn(libc::c_int) as libc::sighandler_t)
        };
    }
    #[cfg(not(unix))]
    let _ = flag;
}

/// Which start of which machine this is: the same for all that runs on one kernel.
pub fn boot() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(boot) => boot.trim().to_owned(),
        // elsewhere a machine is its name
        Err(_) => node(),
    }
}

/// What the machine is called: by the queue, which may have several nodes on one machine, or by itself.
pub fn node() -> String {
    let by_queue = std::env::var("SLURMD_NODENAME").ok().filter(|name| !name.is_empty());
    let by_itself = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = by_queue.or_else(by_itself).or_else(|| std::env::var("HOSTNAME").ok());
    name.map_or("this machine".into(), |name| name.trim().to_owned())
}

/// The queue's number of the job that this process runs in, with its number in an array.
pub fn job() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let of_array = || {
        let (array, task) = (variable("SLURM_ARRAY_JOB_ID")?, variable("SLURM_ARRAY_TASK_ID")?);
        Some(format!("{array}_{task}"))
    };
    of_array().or_else(|| variable("SLURM_JOB_ID"))
}

/// Lets this process end without a word when whoever reads its output has seen enough, as `head` has.
pub fn end_with_its_reader() {
    #[cfg(unix)]
    // SAFETY: no handler of ours is called.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// What the machine's clock says, since 1970.
pub fn since_1970() -> std::time::Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// When a file was last changed, since 1970; zero where nobody knows.
pub fn changed_since_1970(meta: &std::fs::Metadata) -> std::time::Duration {
    let changed = meta.modified().ok();
    let since = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.unwrap_or_default()
}

/// What the program runs on.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    format!("{model}, {} threads, {}", rayon::current_num_threads(), std::env::consts::OS)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_known_where_a_folder_is() {
        assert!(free_space(&std::env::temp_dir()).is_some_and(|bytes| bytes > 0));
        assert_eq!(free_space(Path::new("/no/such/folder")), None);
    }
}
