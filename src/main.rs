//! The program: parses the command line, runs one command, answers with its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    hapax::cli::run(std::env::args_os())
}
