//! Who is measured, and how each is started with a data folder of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use serde::Serialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::client::{Client, Dialect, Traffic};
use crate::cluster::Cluster;
use crate::process::Process;
use crate::wire::Connection;
use crate::workload::Scale;

/// The only key of the S3 server, and its secret.
const S3_ACCESS_KEY: &str = "hapaxbench";
const S3_SECRET_KEY: &str = "hapax-bench-secret";

/// A server under measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// The product.
    Hapax,
    /// Reads, hashes, answers.
    FloorHash,
    /// Reads, hashes, stores durably, answers.
    FloorStore,
    /// The same service with one transaction an operation.
    Naive,
    /// Debian's `docker-registry` on its file-system driver.
    DockerRegistry,
}

/// Database and store below a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// The embedded default.
    SqliteLocal,
    /// A PostgreSQL cluster and an S3 server, both of this run.
    PostgresS3,
}

impl Contender {
    /// As tables show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hapax => "hapax",
            Self::FloorHash => "floor-hash",
            Self::FloorStore => "floor-store",
            Self::Naive => "naive",
            Self::DockerRegistry => "docker-registry",
        }
    }

    fn dialect(self) -> Dialect {
        match self {
            Self::DockerRegistry => Dialect::Registry,
            _ => Dialect::Images,
        }
    }

    fn uses_backend(self) -> bool {
        matches!(self, Self::Hapax | Self::Naive)
    }
}

/// Where the peer's program is; `None` where its package is not installed.
pub(crate) fn find_registry() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("docker-registry"))
        .find(|program| program.is_file())
}

/// What all servers of a run share.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Data folders are made here, on the disk that is measured.
    pub(crate) data: PathBuf,
    /// The product's program.
    pub(crate) hapax: PathBuf,
    /// The program of the naive service and of the S3 server.
    pub(crate) services: PathBuf,
    /// `None` where PostgreSQL is not installed.
    pub(crate) cluster: Option<Cluster>,
}

/// A started server with its load.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) contender: Contender,
    pub(crate) process: Process,
    pub(crate) clients: Vec<Client>,
    /// Of a PostgreSQL database.
    pub(crate) database: Option<String>,
    /// Its S3 server, if it has one.
    s3: Option<Process>,
    // Last: removed after the processes that use it have ended.
    pub(crate) folder: TempDir,
}

/// Counts that only ever grow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Calls of the object store; known of Hapax only.
    pub(crate) store_calls: Option<f64>,
    /// Group commits; known of Hapax only.
    pub(crate) batches: Option<f64>,
    /// Transactions committed; known of PostgreSQL only.
    pub(crate) commits: Option<f64>,
}

impl Surroundings {
    /// Starts one server in an empty folder.
    pub(crate) async fn start(&self, contender: Contender, backend: Backend) -> Result<Started> {
        self.start_as(contender, backend, &format!("bench_{}", contender.name()))
            .await
    }

    /// As [`Surroundings::start`], with a PostgreSQL database of that name.
    pub(crate) async fn start_as(
        &self,
        contender: Contender,
        backend: Backend,
        name: &str,
    ) -> Result<Started> {
        let folder = tempfile::Builder::new()
            .prefix(contender.name())
            .tempdir_in(&self.data)?;
        let on_postgres = backend == Backend::PostgresS3 && contender.uses_backend();
        let database = on_postgres.then(|| name.to_owned());
        let s3 = match on_postgres {
            true => Some(start_s3(&self.services, folder.path()).await?),
            false => None,
        };
        let process = match contender {
            Contender::DockerRegistry => start_registry(folder.path()).await?,
            _ => {
                let mut command = self.command(contender, folder.path())?;
                if contender.uses_backend() {
                    let url = match (&database, &self.cluster) {
                        (Some(name), Some(cluster)) => Some(cluster.new_database(name)?),
                        _ => None,
                    };
                    configure(&mut command, s3.as_ref(), url.as_deref());
                }
                Process::start(command, folder.path()).await?
            }
        };
        let clients = Vec::new();
        Ok(Started {
            contender,
            process,
            clients,
            database,
            s3,
            folder,
        })
    }

    /// Starts Hapax in a folder that may hold an earlier start's data, with one client that sends
    /// new originals.
    pub(crate) async fn start_hapax_in(&self, folder: &Path) -> Result<(Process, Client)> {
        let mut command = self.command(Contender::Hapax, folder)?;
        configure(&mut command, None, None);
        let process = Process::start(command, folder).await?;
        let address = process.address;
        let client = Client::open(0, address, Dialect::Images, Traffic::New, 100 * 1024).await?;
        Ok((process, client))
    }

    fn command(&self, contender: Contender, folder: &Path) -> Result<Command> {
        let floor = |name: &str| -> Result<Command> {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["floor", name]);
            Ok(command)
        };
        Ok(match contender {
            Contender::Hapax => {
                let mut command = Command::new(&self.hapax);
                command
                    .arg("serve")
                    .env("HAPAX__SERVER__BIND", "127.0.0.1:0");
                command
            }
            Contender::FloorHash => floor("hash")?,
            Contender::FloorStore => {
                let mut command = floor("store")?;
                command.arg("--data").arg(folder.join("objects"));
                command
            }
            Contender::Naive => {
                let mut command = Command::new(&self.services);
                command.arg("naive");
                command
            }
            Contender::DockerRegistry => unreachable!("started with a configuration file"),
        })
    }

    /// Stops a server, lets `between` do something to its data, and starts it on them again.
    pub(crate) async fn restart(
        &self,
        started: Started,
        between: impl AsyncFnOnce(&str) -> Result<()>,
    ) -> Result<Started> {
        let url = self.database_url(&started);
        let Started {
            contender,
            process,
            database,
            s3,
            folder,
            clients,
        } = started;
        drop(clients);
        process.stop().await?;
        between(&url).await?;
        let mut command = self.command(contender, folder.path())?;
        configure(
            &mut command,
            s3.as_ref(),
            database.as_ref().map(|_| &url[..]),
        );
        let process = Process::start(command, folder.path()).await?;
        Ok(Started {
            contender,
            process,
            clients: Vec::new(),
            database,
            s3,
            folder,
        })
    }

    /// Where a started server's rows are.
    pub(crate) fn database_url(&self, started: &Started) -> String {
        match (&self.cluster, &started.database) {
            (Some(cluster), Some(name)) => cluster.url(name),
            _ => {
                let file = started.folder.path().join("hapax-data/hapax.db");
                format!("sqlite://{}", file.display())
            }
        }
    }

    /// What a server has counted so far.
    pub(crate) async fn counters(&self, started: &Started, scale: Scale) -> Result<Counters> {
        let mut counters = Counters::default();
        if started.contender == Contender::Hapax {
            let mut connection = Connection::open(started.process.address).await?;
            let reply = connection
                .short("GET", "/metrics", "", &[])
                .await?
                .expect(200)?;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            counters.store_calls = Some(sum(&text, "hapax_store_request_duration_seconds_count"));
            counters.batches = Some(sum(&text, "hapax_batch_operations_count"));
        }
        if scale.smoke {
            return Ok(counters);
        }
        if let (Some(cluster), Some(database)) = (&self.cluster, &started.database) {
            // Until the server's backends have reported their last transactions.
            tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
            counters.commits = Some(cluster.commits(database)? as f64);
        }
        Ok(counters)
    }
}

impl Started {
    /// Opens the connections of one workload.
    pub(crate) async fn connect(
        &mut self,
        count: u64,
        traffic: Traffic,
        file_bytes: u64,
    ) -> Result<()> {
        for number in 0..count {
            let (address, dialect) = (self.process.address, self.contender.dialect());
            self.clients
                .push(Client::open(number, address, dialect, traffic, file_bytes).await?);
        }
        Ok(())
    }

    /// Ends its processes. Its data stay until the folder is dropped.
    pub(crate) async fn stop(self) -> Result<TempDir> {
        let Self {
            process,
            clients,
            s3,
            folder,
            ..
        } = self;
        drop(clients);
        process.stop().await?;
        if let Some(s3) = s3 {
            s3.stop().await?;
        }
        Ok(folder)
    }
}

/// Gives the space of a folder's files back, and keeps the files. ext4 passes over each inode that was
/// deleted within the last minutes when it makes a file: whoever is measured after a removal of many
/// files would pay for it, most of all who makes the most files.
pub(crate) fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => empty(&entry.path())?,
            kind if kind.is_file() => {
                let file = std::fs::OpenOptions::new().write(true).open(entry.path())?;
                file.set_len(0)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Defaults, relative to the data folder, but for what PostgreSQL and S3 need.
fn configure(command: &mut Command, s3: Option<&Process>, url: Option<&str>) {
    command.env("HAPAX__LOG__LEVEL", "warn");
    let (Some(s3), Some(url)) = (s3, url) else {
        return;
    };
    command
        .env("HAPAX__DATABASE__URL", url)
        .env("HAPAX__STORAGE__BACKEND", "s3")
        .env("HAPAX__STORAGE__S3__BUCKET", "bench")
        .env(
            "HAPAX__STORAGE__S3__ENDPOINT",
            format!("http://{}", s3.address),
        )
        .env("HAPAX__STORAGE__S3__REGION", "us-east-1")
        .env("HAPAX__STORAGE__S3__PATH_STYLE", "true")
        .env("HAPAX__STORAGE__S3__ACCESS_KEY_ID", S3_ACCESS_KEY)
        .env("HAPAX__STORAGE__S3__SECRET_ACCESS_KEY", S3_SECRET_KEY);
}

async fn start_s3(program: &Path, folder: &Path) -> Result<Process> {
    let own = folder.join("s3");
    std::fs::create_dir_all(own.join("buckets/bench"))?;
    let mut command = Command::new(program);
    command.args([
        "s3",
        "--access-key",
        S3_ACCESS_KEY,
        "--secret-key",
        S3_SECRET_KEY,
        "--data",
    ]);
    command.arg(own.join("buckets"));
    Process::start(command, &own).await
}

/// The registry cannot be given port 0 and be asked for its address: a free port is looked for.
async fn start_registry(folder: &Path) -> Result<Process> {
    let program = find_registry().context("docker-registry is not installed")?;
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let configuration = serde_json::json!({
        "version": 0.1,
        "log": { "level": "error", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": folder.join("registry"), "maxthreads": 100 },
            "cache": { "blobdescriptor": "inmemory" },
        },
        "http": { "addr": address.to_string(), "relativeurls": true },
    });
    // JSON is YAML.
    let file = folder.join("registry.yml");
    std::fs::write(&file, serde_json::to_vec_pretty(&configuration)?)?;
    let mut command = Command::new(program);
    command.arg("serve").arg(file).stdout(Stdio::null());
    Process::start_at(command, folder, address).await
}

/// The sum of a metric over all its labels.
fn sum(text: &str, name: &str) -> f64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# HELP x y\nx{a=\"b c\"} 2\nx{a=\"d\"} 3\nx_y 9\n";
        assert_eq!(sum(text, "x"), 5.0);
        assert_eq!(sum("x 7\n", "x"), 7.0);
    }
}
