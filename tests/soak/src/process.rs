//! Processes of the run: each says `listening on http://…` once it serves, and none outlives this one.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const POLL: Duration = Duration::from_millis(10);

/// A process that serves, or is about to; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    address: Arc<OnceLock<SocketAddr>>,
}

/// A command that the kernel kills when this process's main thread ends, however it ends. To be
/// started from the main thread.
pub(crate) fn bound_to_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

impl Process {
    /// Starts it; what it says on standard error is added to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("it is piped")?;
        let address = Arc::new(OnceLock::new());
        let announced = address.clone();
        std::thread::spawn(move || {
            // To the end: a full pipe would stop it.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let place = line.strip_prefix("listening on http://");
                if let Some(Ok(place)) = place.map(|place| place.trim().parse()) {
                    let _ = announced.set(place);
                }
            }
        });
        Ok(Self { child, address })
    }

    /// Where it listens, once it does.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address.get().copied()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let script = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &script]).status()?;
        anyhow::ensure!(status.success(), "{script} failed");
        Ok(())
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end; `None`: it did not end within `limit`.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        wait(&mut self.child, limit).await
    }

    /// Open files without a name: bodies in the spool.
    pub(crate) fn unlinked_files(&self) -> Vec<String> {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .map(|target| target.display().to_string())
            .filter(|target| target.ends_with("(deleted)"))
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.kill();
    }
}

/// Waits for the end of a child; `None`: it did not end within `limit`.
pub(crate) async fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            return Ok(ended);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// An exit status for people.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}
