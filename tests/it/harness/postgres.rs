//! Throw-away PostgreSQL clusters: one for the whole test binary, and one of its own for a case that
//! stops its database. Never run as root, stopped and removed even when the test binary is killed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use sea_orm::{ConnectionTrait, Database, DatabaseConnection};

/// Durability costs most of a small transaction's time, and nothing here outlives the run.
const SETTINGS: &str = "-c fsync=off -c full_page_writes=off -c max_connections=400 \
                        -c listen_addresses=127.0.0.1 -c unix_socket_directories=";

static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::start_new);

/// Where `initdb` and `pg_ctl` are.
pub(crate) fn find_binaries() -> Result<PathBuf, String> {
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
        .ok_or_else(|| {
            "no PostgreSQL server (initdb, pg_ctl) is installed; ./tests/run installs it".to_owned()
        })
}

/// A running cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    binaries: PathBuf,
    user: Option<Unprivileged>,
    port: u16,
    /// Its standard input is a pipe from this process: when that ends, however it ends, it stops the
    /// cluster and removes the folder.
    watchdog: Child,
}

/// The server refuses to run as root.
#[derive(Debug, Clone)]
struct Unprivileged {
    uid: u32,
    gid: u32,
}

impl Cluster {
    /// The cluster that the whole test binary shares.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    /// Makes and starts a cluster.
    pub(crate) fn start_new() -> Self {
        let binaries = find_binaries().expect("PostgreSQL is installed");
        let folder = tempfile::Builder::new()
            .prefix("hapax-postgres-")
            .tempdir()
            .expect("a temporary folder can be made")
            .keep();
        let user = Unprivileged::if_root();
        if let Some(user) = &user {
            std::os::unix::fs::chown(&folder, Some(user.uid), Some(user.gid))
                .expect("root may give its folder away");
        }
        let watchdog = watchdog(&binaries, &folder, user.as_ref());
        let mut cluster = Self {
            folder,
            binaries,
            user,
            port: 0,
            watchdog,
        };
        cluster.run(
            "initdb",
            &[
                "--no-sync",
                "--auth=trust",
                "--username=hapax",
                "--encoding=UTF8",
                "--locale=C",
            ],
        );
        cluster.start_on_free_port();
        cluster
    }

    /// The URL of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://hapax@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database.
    pub(crate) async fn create_database(&self, name: &str) {
        let admin = self.admin().await;
        admin
            .execute_unprepared(&format!("CREATE DATABASE {name}"))
            .await
            .expect("a database can be made");
        admin.close().await.expect("the connection closes");
    }

    /// Removes a database, whoever is connected to it.
    pub(crate) async fn drop_database(&self, name: &str) {
        let admin = self.admin().await;
        // A database left behind goes with the cluster.
        let _ = admin
            .execute_unprepared(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .await;
        let _ = admin.close().await;
    }

    /// Starts it again on the port it had.
    pub(crate) fn start(&self) {
        assert!(self.try_start(), "the cluster starts again");
    }

    /// Stops it as a power cut would.
    pub(crate) fn stop(&self) {
        self.run("pg_ctl", &["stop", "-w", "-m", "immediate"]);
    }

    async fn admin(&self) -> DatabaseConnection {
        Database::connect(self.url("postgres"))
            .await
            .expect("the cluster accepts connections")
    }

    fn start_on_free_port(&mut self) {
        for _ in 0..10 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            self.port = listener.local_addr().expect("it is bound").port();
            drop(listener);
            // Somebody else may take the port in between: then try another.
            if self.try_start() {
                return;
            }
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("PostgreSQL does not start:\n{log}");
    }

    fn try_start(&self) -> bool {
        let log = self.folder.join("log");
        let options = format!("{SETTINGS} -p {}", self.port);
        self.command("pg_ctl")
            .args(["start", "-w", "-s", "-l"])
            .arg(log)
            .args(["-o", &options])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("pg_ctl runs")
            .success()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn command(&self, program: &str) -> Command {
        let mut command = as_user(&self.binaries.join(program), self.user.as_ref());
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

impl Unprivileged {
    fn if_root() -> Option<Self> {
        if !rustix_is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        let ids = |name: &str| {
            let line = passwd
                .lines()
                .find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            let uid = fields.next()?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { uid, gid })
        };
        Some(
            ids("postgres")
                .or_else(|| ids("nobody"))
                .expect("there is a user that is not root"),
        )
    }
}

fn rustix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn as_user(program: &Path, user: Option<&Unprivileged>) -> Command {
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

fn watchdog(binaries: &Path, folder: &Path, user: Option<&Unprivileged>) -> Child {
    let stop = as_user(&binaries.join("pg_ctl"), user);
    let mut command = Command::new("sh");
    command
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
        .process_group(0);
    command.spawn().expect("a shell can be started")
}
