//! The program: parses the command line, runs one command, answers with its exit code.

use std::process::ExitCode;

/// Bodies pass as pieces of some ten KiB that one thread makes and another frees, by the thousand a
/// second: the system's allocator took a tenth of the server's time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Its `mi_option_purge_delay`, which the crate does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// How long it keeps what was freed before the kernel gets it back. Its own second is an eighth more memory
/// while many large bodies come, and no less CPU time. The environment's `MIMALLOC_PURGE_DELAY` comes first.
const PURGE_DELAY_MILLIS: std::ffi::c_long = 100;

fn main() -> ExitCode {
    #[expect(unsafe_code, reason = "a call of C that sets a number")]
    // SAFETY: any thread may set any option to any value at any time.
    unsafe {
        libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MILLIS);
    }
    hapax::cli::run(std::env::args_os())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An update of the allocator that numbers its options anew shows here: no other has this default.
    #[test]
    fn the_option_is_the_purge_delay() {
        #[expect(unsafe_code, reason = "a call of C that reads a number")]
        // SAFETY: any thread may read any option at any time.
        let millis = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(millis, 1000);
    }
}
