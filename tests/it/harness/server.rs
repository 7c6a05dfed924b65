//! The real `hapax` binary: as a server in a child process, and as a command that ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a start may take: the machine may be busy with other cases.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a stop may take: longer than the server's own `server.drain_timeout`.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// How long a command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// Settings by the last part of their environment names: `CLEANUP__INTERVAL` → `200ms`. What begins
/// with `SEAMS` goes into `HAPAX_SEAMS…`.
pub(crate) type Settings = BTreeMap<String, String>;

/// A running `hapax serve`; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`
    pub(crate) base: String,
    /// Its standard error.
    pub(crate) log: PathBuf,
}

/// What a command that ended left behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Fails the test unless the command ended with `code`.
    #[track_caller]
    pub(crate) fn exits_with(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code; stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.stdout))
    }
}

/// The binary with nothing of this process's own configuration.
fn hapax(settings: &Settings, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hapax"));
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("HAPAX_") || text.starts_with("AWS_") || text == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
    for (name, value) in settings {
        // What steers the seams is no setting of the product.
        match name.starts_with("SEAMS") {
            true => command.env(format!("HAPAX_{name}"), value),
            false => command.env(format!("HAPAX__{name}"), value),
        };
    }
    command
}

/// Runs a command to its end; one that does not end is killed, and its exit code is `None`.
pub(crate) fn run(settings: &Settings, folder: &Path, arguments: &[&str]) -> Output {
    Running::start(settings, folder, arguments).end()
}

/// A command on its way.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

impl Running {
    /// Starts a command.
    pub(crate) fn start(settings: &Settings, folder: &Path, arguments: &[&str]) -> Self {
        let mut child = hapax(settings, folder)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is there");
        let stdout = read_in_background(child.stdout.take().expect("it is piped"));
        let stderr = read_in_background(child.stderr.take().expect("it is piped"));
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// SIGTERM; returns at once.
    pub(crate) fn terminate(&self) {
        signal("TERM", self.child.id());
    }

    /// Waits for its end; kills it when that does not come.
    pub(crate) fn end(mut self) -> Output {
        let deadline = Instant::now() + COMMAND_LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it was started") {
                break Some(status);
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Output {
            code: status.and_then(|status| status.code()),
            stdout: self.stdout.join().expect("reading does not panic"),
            stderr: self.stderr.join().expect("reading does not panic"),
        }
    }
}

fn signal(name: &str, process: u32) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {process}")])
        .status()
        .expect("there is a shell");
    assert!(status.success(), "kill -{name} {process}");
}

fn read_in_background(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Server {
    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    /// It ended instead; its exit status and what it said.
    pub(crate) fn start(settings: &Settings, folder: &Path, log: PathBuf) -> Result<Self, Output> {
        let log_file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the log can be written");
        let mut child = hapax(settings, folder)
            .arg("serve")
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .expect("the binary is there");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Read to the end: a full pipe would stop the server.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + START_LIMIT;
        let mut said = String::new();
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if let Some(base) = line.strip_prefix("listening on ") {
                let base = base.trim().to_owned();
                return Ok(Self { child, base, log });
            }
            said += &line;
        }
        let _ = child.kill();
        let status = child.wait().expect("it was started");
        Err(Output {
            code: status.code(),
            stdout: said,
            stderr: fs::read_to_string(&log).unwrap_or_default(),
        })
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: it gets no chance to tidy up.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; returns at once.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.pid());
    }

    /// SIGTERM, and the exit status that follows.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.exited().await
    }

    /// The exit status, once there is one.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("it was started") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory in bytes, now and at its highest.
    pub(crate) fn resident_bytes(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            kib.unwrap_or(0) * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// The server's end of a connection: `socket:[inode]`.
    #[cfg(feature = "seams")]
    pub(crate) fn socket_of(&self, connection: &super::RawConnection) -> String {
        let table = fs::read_to_string("/proc/net/tcp").expect("the system has one");
        let client = format!(":{:04X}", connection.port());
        let ours = table.lines().map(|line| line.split_whitespace().collect());
        let mut ours =
            ours.filter(|field: &Vec<&str>| field.len() > 9 && field[2].ends_with(&client));
        let ours = ours
            .next()
            .expect("the connection has two ends on this machine");
        format!("socket:[{}]", ours[9])
    }

    /// Whether the server still has it open.
    #[cfg(feature = "seams")]
    pub(crate) fn has_socket(&self, socket: &str) -> bool {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| target.to_string_lossy() == socket)
    }

    /// No file that it writes may grow beyond so many bytes; `None` lifts that. To the process this is a
    /// disk that is full, and unlike one it can be had on every machine.
    pub(crate) fn limit_file_size(&self, bytes: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};

        let pid = Pid::from_raw(self.pid().cast_signed());
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(pid, Resource::Fsize, limit).expect("a limit of one's own child can be set");
    }

    /// Open files that have no name any more: bodies in the spool.
    pub(crate) fn unlinked_files(&self) -> Vec<PathBuf> {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|target| target.to_string_lossy().ends_with("(deleted)"))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
