//! The `cdbench` command; everything it does is in the library.

use std::process::ExitCode;

/// The system's allocator gives blocks of a few megabytes back to the kernel at once.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cdbench::process::prepare();
    cdbench::cli::main()
}
