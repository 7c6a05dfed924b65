//! The program: parses the command line, runs one command, answers with its exit code.

use std::process::ExitCode;

/// Bodies pass as pieces of some ten KiB that one thread makes and another frees, by the thousand a
/// second: the system's allocator took a tenth of the server's time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hapax::cli::run(std::env::args_os())
}
