//! Memory: how it is kept, and how much this process has used.

/// Keeps freed memory for reuse. Tensors of a few megabytes come and go thousands of times a second;
/// giving them back to the system in between costs a fifth of a training step in page faults. Call it
/// once at the start of a program whose global allocator is mimalloc.
pub fn keep_freed() {
    // mimalloc's header numbers it; the bindings have no name for it.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const NEVER: std::ffi::c_long = -1;
    // SAFETY: sets a number inside the allocator, which is made for this call at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) }
}

/// The most memory this process has ever held, in bytes, where the system tells.
pub fn peak_bytes() -> Option<u64> {
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
