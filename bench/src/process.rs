//! A server in a process of its own, and what the kernel says that it used.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The kernel counts CPU time in these (`sysconf(_SC_CLK_TCK)` is 100 on every Linux).
const TICKS_PER_SECOND: f64 = 100.0;
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: u32,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts a program that will say `listening on http://<address>` on its standard output. What it
    /// logs goes to `folder/stderr.log`.
    pub(crate) async fn start(mut command: Command, folder: &Path) -> Result<Self> {
        let mut child = spawn(&mut command, folder)?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let address = tokio::time::timeout(START_TIMEOUT, async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, address)) = line.split_once("listening on http://") {
                    return Ok::<_, anyhow::Error>(address.trim().parse()?);
                }
            }
            bail!(
                "it ended before it listened; see {}/stderr.log",
                folder.display()
            )
        })
        .await
        .context("it does not listen")??;
        Self::of(child, address)
    }

    /// Starts a program whose address is known, and waits until it takes connections there.
    pub(crate) async fn start_at(
        mut command: Command,
        folder: &Path,
        address: SocketAddr,
    ) -> Result<Self> {
        let child = spawn(&mut command, folder)?;
        let began = std::time::Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if began.elapsed() > START_TIMEOUT {
                bail!(
                    "nothing listens on {address}; see {}/stderr.log",
                    folder.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self::of(child, address)
    }

    fn of(child: Child, address: SocketAddr) -> Result<Self> {
        let pid = child.id().context("it ended at once")?;
        Ok(Self {
            child,
            pid,
            address,
        })
    }

    /// User and system time of all its threads, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .context("the server has ended")?;
        cpu_of(&stat)
    }

    /// The most memory it ever had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        status_bytes(self.pid, "VmHWM:")
    }

    /// The memory it has resident now, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        status_bytes(self.pid, "VmRSS:")
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<()> {
        // SIGTERM is what `kill` sends; it is on every machine that has a shell.
        Command::new("kill")
            .arg(self.pid.to_string())
            .status()
            .await?;
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await?;
        }
        Ok(())
    }
}

fn spawn(command: &mut Command, folder: &Path) -> Result<Child> {
    let log = std::fs::File::create(folder.join("stderr.log"))?;
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.as_std().get_program()))
}

/// Fields 14 and 15 of `/proc/PID/stat`; the second field may hold spaces, but ends with the last `)`.
fn cpu_of(stat: &str) -> Result<f64> {
    let (_, rest) = stat.rsplit_once(')').context("unknown format")?;
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .flat_map(str::parse::<u64>)
        .sum();
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .context("no such line")?;
    let kib: u64 = line
        .split_whitespace()
        .next()
        .context("no value")?
        .parse()?;
    Ok(kib * 1024)
}

/// CPU time of the load generator itself, in seconds.
pub(crate) fn own_cpu_seconds() -> f64 {
    std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| cpu_of(&stat).ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_spaces() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0";
        assert_eq!(cpu_of(stat).expect("well formed"), 2.0);
    }
}
