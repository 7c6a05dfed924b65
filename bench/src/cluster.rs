//! A throw-away PostgreSQL cluster with its default, durable settings; never run as root.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A running cluster; stopped and removed when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    binaries: PathBuf,
    user: Option<(u32, u32)>,
    port: u16,
}

/// Where `initdb` and `pg_ctl` are, newest version first; `None` where PostgreSQL is not installed.
fn find_binaries() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<PathBuf> = installed
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

impl Cluster {
    /// Makes and starts a cluster; `None` where PostgreSQL is not installed.
    pub(crate) fn start() -> Result<Option<Self>> {
        let Some(binaries) = find_binaries() else {
            return Ok(None);
        };
        let folder = tempfile::Builder::new()
            .prefix("hapax-bench-postgres-")
            .tempdir()?;
        let is_root = std::fs::metadata("/proc/self")?.uid() == 0;
        let user = is_root.then(unprivileged).transpose()?;
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let at = |program: &str| command(&binaries.join(program), user, folder.path());
        run(at("initdb").args([
            "--auth=trust",
            "--username=hapax",
            "--encoding=UTF8",
            "--locale=C",
        ]))?;
        let options = format!(
            "-c max_connections=200 -c shared_buffers=256MB -c listen_addresses=127.0.0.1 \
             -c unix_socket_directories= -p {port}"
        );
        let log = folder.path().join("log");
        run(at("pg_ctl")
            .args(["start", "-w", "-s", "-o", &options, "-l"])
            .arg(log))?;
        Ok(Some(Self {
            folder,
            binaries,
            user,
            port,
        }))
    }

    /// The URL of a new, empty database.
    pub(crate) fn new_database(&self, name: &str) -> Result<String> {
        self.query(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))?;
        self.query(&format!("CREATE DATABASE {name}"))?;
        Ok(format!("postgres://hapax@127.0.0.1:{}/{name}", self.port))
    }

    /// Transactions committed in a database. Backends report theirs at most once a second: wait that
    /// long before asking.
    pub(crate) fn commits(&self, name: &str) -> Result<u64> {
        let sql = format!("SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'");
        self.query(&sql)?.trim().parse().context("no such database")
    }

    /// By the client program: the load generator needs no database driver.
    fn query(&self, sql: &str) -> Result<String> {
        let output = Command::new(self.binaries.join("psql"))
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "hapax",
                "-d",
                "postgres",
            ])
            .args(["-qtA", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{sql}: {complaint}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let program = self.binaries.join("pg_ctl");
        let _ = run(command(&program, self.user, self.folder.path()).args([
            "stop",
            "-w",
            "-s",
            "-m",
            "immediate",
        ]));
    }
}

fn unprivileged() -> Result<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let line = passwd
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .context("there is no user but root")
}

fn command(program: &Path, user: Option<(u32, u32)>, folder: &Path) -> Command {
    let mut command = match user {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command
                .args([format!("--reuid={uid}"), format!("--regid={gid}")])
                .args(["--clear-groups", "--"])
                .arg(program);
            command
        }
    };
    command
        .env("PGDATA", folder.join("data"))
        .env("LC_ALL", "C")
        .current_dir(folder);
    command.stdin(Stdio::null());
    command
}

/// `pg_ctl` leaves a server behind that holds its standard output open: that must not be a pipe.
fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{:?} failed", command.get_program());
    Ok(())
}
