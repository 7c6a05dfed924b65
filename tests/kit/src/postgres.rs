//! Throw-away PostgreSQL clusters. Never run as root, stopped and removed even when the process that
//! made them is killed.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How often a start is tried, each time on another port.
const START_ATTEMPTS: usize = 10;
/// Below the ports from which the kernel takes those of outgoing connections: such a connection
/// could take the cluster's port while it is stopped.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Where `initdb`, `pg_ctl` and `psql` are, newest version first; `None` where PostgreSQL is not
/// installed.
pub fn find_binaries() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    folders.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let by_path = std::env::split_paths(&path).collect::<Vec<_>>();
    folders
        .into_iter()
        .rev()
        .chain(by_path)
        .find(|folder| folder.join("initdb").is_file() && folder.join("pg_ctl").is_file())
}

/// A cluster that listens on a loopback port of its own. Its superuser is `hapax`, without a
/// password.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    binaries: PathBuf,
    settings: String,
    user: Option<Unprivileged>,
    port: u16,
    /// Its standard input is a pipe from this process: when that ends, however it ends, it stops the
    /// cluster and removes the folder.
    watchdog: Child,
}

/// The server refuses to run as root.
#[derive(Debug, Clone, Copy)]
struct Unprivileged {
    uid: u32,
    gid: u32,
}

impl Cluster {
    /// Makes and starts a cluster. `settings` are the server's own, like `fsync=off`.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start; what it said.
    pub fn start_new(settings: &[&str]) -> io::Result<Self> {
        let binaries = find_binaries().ok_or_else(|| {
            io::Error::other("no PostgreSQL server (initdb, pg_ctl) is installed")
        })?;
        let folder = tempfile::Builder::new()
            .prefix("hapax-postgres-")
            .tempdir()?
            .keep();
        let user = Unprivileged::if_root()?;
        if let Some(user) = &user {
            std::os::unix::fs::chown(&folder, Some(user.uid), Some(user.gid))?;
        }
        let watchdog = watchdog(&binaries, &folder, user)?;
        let own = ["listen_addresses=127.0.0.1", "unix_socket_directories="];
        let settings = settings.iter().chain(&own);
        let mut cluster = Self {
            folder,
            binaries,
            settings: settings.map(|setting| format!("-c {setting} ")).collect(),
            user,
            port: 0,
            watchdog,
        };
        cluster.run(cluster.command("initdb").args([
            "--no-sync",
            "--auth=trust",
            "--username=hapax",
            "--encoding=UTF8",
            "--locale=C",
        ]))?;
        cluster.start_on_free_port()?;
        Ok(cluster)
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://hapax@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database.
    ///
    /// # Errors
    /// The cluster does not answer, or there is one of this name.
    pub fn create_database(&self, name: &str) -> io::Result<()> {
        self.query(&format!("CREATE DATABASE {name}")).map(drop)
    }

    /// Removes a database if it is there, whoever is connected to it.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn drop_database(&self, name: &str) -> io::Result<()> {
        self.query(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .map(drop)
    }

    /// Runs one statement in the database `postgres` by the client program; its rows, unaligned.
    ///
    /// # Errors
    /// The statement failed; what `psql` said.
    pub fn query(&self, sql: &str) -> io::Result<String> {
        let mut command = self.command("psql");
        command
            .args(["-h", "127.0.0.1", "-U", "hapax", "-d", "postgres"])
            .args(["-p", &self.port.to_string()])
            .args(["-X", "-qtA", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        self.run(&mut command)
    }

    /// Starts it again on the port it had.
    ///
    /// # Errors
    /// It does not start; the end of its log.
    pub fn start(&self) -> io::Result<()> {
        match self.try_start()? {
            true => Ok(()),
            false => Err(self.does_not_start()),
        }
    }

    /// Stops it as a power cut would.
    ///
    /// # Errors
    /// It did not run.
    pub fn stop(&self) -> io::Result<()> {
        let mut command = self.command("pg_ctl");
        self.run(command.args(["stop", "-w", "-m", "immediate"]))
            .map(drop)
    }

    /// What the server logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn start_on_free_port(&mut self) -> io::Result<()> {
        for _ in 0..START_ATTEMPTS {
            self.port = free_port()?;
            // Somebody else may take the port in between: then try another.
            if self.try_start()? {
                return Ok(());
            }
        }
        Err(self.does_not_start())
    }

    fn does_not_start(&self) -> io::Error {
        io::Error::other(format!("PostgreSQL does not start:\n{}", self.log()))
    }

    /// `pg_ctl` leaves a server behind that holds its standard output open: that must not be a pipe.
    fn try_start(&self) -> io::Result<bool> {
        let options = format!("{}-p {}", self.settings, self.port);
        let status = self
            .command("pg_ctl")
            .args(["start", "-w", "-s", "-l"])
            .arg(self.folder.join("log"))
            .args(["-o", &options])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        Ok(status.success())
    }

    fn run(&self, command: &mut Command) -> io::Result<String> {
        let output = command.output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{command:?}: {complaint}")))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = as_user(&self.binaries.join(program), self.user);
        command
            .env("PGDATA", self.folder.join("data"))
            .env("LC_ALL", "C")
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Looks from a place that differs between processes, and never twice at the same one: the port of a
/// cluster that is stopped for a while is free, but it is not for another cluster.
fn free_port() -> io::Result<u16> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let span = usize::from(PORTS.end - PORTS.start);
    let from = std::process::id() as usize * 97;
    std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
        .take(span)
        .map(|step| PORTS.start + ((from + step) % span) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| io::Error::other("no port is free"))
}

impl Unprivileged {
    fn if_root() -> io::Result<Option<Self>> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd")?;
        let ids = |name: &str| {
            let mut lines = passwd.lines();
            let line = lines.find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            let uid = fields.next()?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { uid, gid })
        };
        let user = ids("postgres").or_else(|| ids("nobody"));
        match user {
            Some(user) => Ok(Some(user)),
            None => Err(io::Error::other("there is no user but root")),
        }
    }
}

fn as_user(program: &Path, user: Option<Unprivileged>) -> Command {
    let Some(Unprivileged { uid, gid }) = user else {
        return Command::new(program);
    };
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={gid}"))
        .args(["--clear-groups", "--"])
        .arg(program);
    command
}

fn watchdog(binaries: &Path, folder: &Path, user: Option<Unprivileged>) -> io::Result<Child> {
    let stop = as_user(&binaries.join("pg_ctl"), user);
    Command::new("sh")
        .args([
            "-c",
            r#"read -r _; folder=$1; shift; "$@" stop -s -w -m immediate -D "$folder/data"; rm -rf "$folder""#,
            "watchdog",
        ])
        .arg(folder)
        .arg(stop.get_program())
        .args(stop.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not in the terminal's process group: Ctrl-C must not end it before its work.
        .process_group(0)
        .spawn()
}
