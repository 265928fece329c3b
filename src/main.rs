//! The `cdbench` command; everything it does is in the library.

use std::process::ExitCode;

/// Tensors of a few megabytes are allocated and dropped thousands of times a second; the system's
/// allocator gives such blocks back to the kernel each time and pays for the page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cdbench::cli::main()
}
