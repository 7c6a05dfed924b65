//! A file without a name, and its end.

use std::borrow::Borrow;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// A file of the spool. When it is dropped the kernel takes its blocks back, for 1 GiB in 0.2 s: on a thread
/// of the blocking pool, never on one that others share.
#[derive(Debug)]
pub struct SpoolFile(Option<File>);

impl SpoolFile {
    /// A new file without a name. Without `O_EXCL`, which `tempfile` sets: a store on the same file system
    /// may still give it a name by `linkat`, and save itself the copy.
    pub(super) fn create_in(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(File::from(file).into()),
            // What file systems and kernels without O_TMPFILE say, by open(2).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                tempfile::tempfile_in(directory).map(Self::from)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The file itself, whose end is the caller's.
    pub(super) fn into_inner(mut self) -> File {
        self.0.take().expect(THERE)
    }
}

/// It is taken out by what ends this value, and by nothing else.
const THERE: &str = "the file is there as long as its owner";

impl From<File> for SpoolFile {
    fn from(file: File) -> Self {
        Self(Some(file))
    }
}

impl Deref for SpoolFile {
    type Target = File;

    fn deref(&self) -> &File {
        self.0.as_ref().expect(THERE)
    }
}

impl Borrow<File> for SpoolFile {
    fn borrow(&self) -> &File {
        self
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        // Outside of a runtime nobody shares the thread; one that ends drops it at once.
        if let Some(file) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    use super::*;

    fn is_open(descriptor: i32) -> bool {
        Path::new(&format!("/proc/self/fd/{descriptor}")).exists()
    }

    #[tokio::test]
    async fn a_dropped_file_is_closed_by_another_thread() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = SpoolFile::create_in(folder.path()).expect("created");
        let descriptor = file.as_raw_fd();
        assert!(is_open(descriptor));
        drop(file);
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_open(descriptor) {
            assert!(Instant::now() < deadline, "it stays open");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn without_a_runtime_it_is_closed_here() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = SpoolFile::create_in(folder.path()).expect("created");
        let metadata = file.metadata().expect("open");
        assert_eq!(metadata.len(), 0);
        drop(file);
        let kept = SpoolFile::create_in(folder.path()).expect("created");
        let kept: File = kept.into_inner();
        assert!(kept.metadata().is_ok(), "whoever takes it out has it");
    }
}
