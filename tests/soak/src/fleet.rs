//! The processes of a run: the servers under test, the S3 server, the PostgreSQL cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testkit::postgres::Cluster;

use crate::api::{NodeId, Nodes};
use crate::findings::{Findings, Kind};
use crate::process::{Process, bound_to_us, describe};
use crate::proxy::Proxy;
use crate::servers;

/// A server that does not listen after this is killed and started anew.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Between a start that failed and the next.
const RESTART_PAUSE: Duration = Duration::from_millis(400);
/// Longer than the servers' own `server.drain_timeout`, twice.
const STOP_LIMIT: Duration = Duration::from_secs(70);
const DATABASE: &str = "soak";

/// The programs of a run.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The product.
    pub(crate) hapax: PathBuf,
    /// This program, which is the S3 server too.
    pub(crate) own: PathBuf,
    /// Rules that the servers leave out.
    pub(crate) without: Option<String>,
}

/// One server under test: at times running, at times not.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) node: NodeId,
    pub(crate) folder: PathBuf,
    process: Option<(Process, Instant)>,
    start_at: Instant,
    pub(crate) paused_until: Option<Instant>,
}

/// What was done to the processes.
#[derive(Debug, Default, Clone)]
pub(crate) struct FleetFigures {
    pub(crate) kills: u64,
    pub(crate) pauses: u64,
    pub(crate) starts: u64,
    /// Starts that ended by themselves: the database or the store was not there.
    pub(crate) failed_starts: u64,
    pub(crate) database_restarts: u64,
    pub(crate) s3_restarts: u64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Fleet {
    programs: Programs,
    folder: PathBuf,
    s3_endpoint: String,
    s3: Option<Process>,
    proxy: Arc<Proxy>,
    nodes: Arc<Nodes>,
    findings: Arc<Findings>,
    pub(crate) servers: Vec<Server>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) figures: FleetFigures,
}

impl Fleet {
    /// Starts the database, the store and, one after the other, the servers.
    pub(crate) async fn start(
        programs: Programs,
        folder: &Path,
        proxy: Arc<Proxy>,
        nodes: Arc<Nodes>,
        findings: Arc<Findings>,
    ) -> Result<Self> {
        let cluster = Cluster::start_new(&["max_connections=100"])?;
        cluster.create_database(DATABASE)?;
        std::fs::create_dir_all(folder.join("buckets").join(servers::BUCKET))?;
        let now = Instant::now();
        let servers = nodes.ids().map(|node| Server {
            node,
            folder: folder.join(format!("server-{}", node.0)),
            process: None,
            start_at: now,
            paused_until: None,
        });
        let mut fleet = Self {
            programs,
            folder: folder.to_owned(),
            s3_endpoint: format!("http://{}", proxy.listen().await?),
            s3: None,
            servers: servers.collect(),
            proxy,
            nodes,
            findings,
            cluster: Arc::new(cluster),
            figures: FleetFigures::default(),
        };
        fleet.start_s3().await?;
        fleet.all_up().await?;
        Ok(fleet)
    }

    /// The URL of the servers' database.
    pub(crate) fn database_url(&self) -> String {
        self.cluster.url(DATABASE)
    }

    /// The S3 server itself, past the proxy.
    pub(crate) fn s3_address(&self) -> Result<std::net::SocketAddr> {
        let address = self.s3.as_ref().and_then(Process::address);
        address.context("the S3 server does not listen")
    }

    /// SIGKILL to the S3 server.
    pub(crate) fn kill_s3(&mut self) -> Result<()> {
        self.proxy.set_store(None);
        if let Some(mut s3) = self.s3.take() {
            s3.kill()?;
        }
        Ok(())
    }

    /// Starts the S3 server on its folder, and waits until it listens.
    pub(crate) async fn start_s3(&mut self) -> Result<()> {
        let mut command = bound_to_us(&self.programs.own);
        command.arg("s3").arg(self.folder.join("buckets"));
        let s3 = Process::start(command, &self.folder.join("s3.log"))?;
        let began = Instant::now();
        while s3.address().is_none() {
            if began.elapsed() > START_LIMIT {
                bail!("the S3 server does not start: see s3.log");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.proxy.set_store(s3.address());
        self.s3 = Some(s3);
        Ok(())
    }

    /// SIGKILL to a server; whether it ran.
    pub(crate) fn kill(&mut self, node: NodeId, down_for: Duration) -> Result<bool> {
        self.nodes.set_address(node, None);
        let server = &mut self.servers[node.0];
        server.paused_until = None;
        let Some((mut process, _)) = server.process.take() else {
            return Ok(false);
        };
        let ended = process.ended()?;
        process.kill()?;
        server.start_at = Instant::now() + down_for;
        Ok(ended.is_none())
    }

    /// SIGSTOP to a server; whether it ran.
    pub(crate) fn pause(&mut self, node: NodeId, time: Duration) -> Result<bool> {
        let server = &mut self.servers[node.0];
        let Some((process, _)) = &mut server.process else {
            return Ok(false);
        };
        if process.ended()?.is_some() || server.paused_until.is_some() {
            return Ok(false);
        }
        process.signal("STOP")?;
        server.paused_until = Some(Instant::now() + time);
        Ok(true)
    }

    /// Keeps everything running that should run: to be called often.
    pub(crate) fn supervise(&mut self) -> Result<()> {
        let now = Instant::now();
        for index in 0..self.servers.len() {
            if self.servers[index]
                .paused_until
                .is_some_and(|end| end <= now)
            {
                self.resume(index)?;
            }
            self.supervise_one(index, now)?;
        }
        Ok(())
    }

    fn resume(&mut self, index: usize) -> Result<()> {
        let server = &mut self.servers[index];
        server.paused_until = None;
        if let Some((process, _)) = &server.process {
            process.signal("CONT")?;
        }
        Ok(())
    }

    fn supervise_one(&mut self, index: usize, now: Instant) -> Result<()> {
        let node = self.servers[index].node;
        let Some((process, started)) = &mut self.servers[index].process else {
            if self.servers[index].start_at <= now {
                self.start_server(index)?;
            }
            return Ok(());
        };
        if let Some(status) = process.ended()? {
            let end = describe(status);
            match process.address() {
                Some(_) => self.findings.add(
                    Kind::Wrong,
                    format!("server {} ended by itself: {end}", node.0),
                ),
                None => self.figures.failed_starts += 1,
            }
            self.nodes.set_address(node, None);
            self.servers[index].process = None;
            self.servers[index].start_at = now + RESTART_PAUSE;
        } else if process.address().is_none() && started.elapsed() > START_LIMIT {
            process.kill()?;
            self.figures.failed_starts += 1;
        } else if self.nodes.address(node).is_none() {
            self.nodes.set_address(node, process.address());
        }
        Ok(())
    }

    fn start_server(&mut self, index: usize) -> Result<()> {
        let server = &mut self.servers[index];
        std::fs::create_dir_all(&server.folder)?;
        let mut command = bound_to_us(&self.programs.hapax);
        command.arg("serve");
        let spool = server.folder.join("spool");
        let database = self.cluster.url(DATABASE);
        servers::configure(&mut command, &database, &self.s3_endpoint, &spool);
        if let Some(rules) = &self.programs.without {
            command.env("HAPAX_SEAMS_WITHOUT", rules);
        }
        command.current_dir(&server.folder);
        let log = self.folder.join(format!("server-{index}.log"));
        server.process = Some((Process::start(command, &log)?, Instant::now()));
        self.figures.starts += 1;
        Ok(())
    }

    /// Ends all pauses, and waits until every server listens.
    pub(crate) async fn all_up(&mut self) -> Result<()> {
        for index in 0..self.servers.len() {
            self.resume(index)?;
        }
        let began = Instant::now();
        loop {
            self.supervise()?;
            if self
                .nodes
                .ids()
                .all(|node| self.nodes.address(node).is_some())
            {
                return Ok(());
            }
            if began.elapsed() > START_LIMIT * 2 {
                bail!("a server does not start: see server-*.log");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A command of the product on the servers' configuration.
    pub(crate) fn hapax(&self, arguments: &[&str]) -> Command {
        let mut command = bound_to_us(&self.programs.hapax);
        command.args(arguments).current_dir(&self.folder);
        let spool = self.folder.join("command-spool");
        let database = self.cluster.url(DATABASE);
        servers::configure(&mut command, &database, &self.s3_endpoint, &spool);
        command
    }

    /// Open files without a name, of all servers.
    pub(crate) fn unlinked_files(&self) -> Vec<String> {
        let processes = self
            .servers
            .iter()
            .filter_map(|server| server.process.as_ref());
        processes
            .flat_map(|(process, _)| process.unlinked_files())
            .collect()
    }

    /// SIGTERM to every server: each must end in order.
    pub(crate) async fn stop_servers(&mut self) -> Result<()> {
        for index in 0..self.servers.len() {
            self.stop(index).await?;
        }
        Ok(())
    }

    /// Stops a server in order, and starts it again.
    pub(crate) async fn restart_one(&mut self) -> Result<()> {
        self.stop(0).await?;
        self.all_up().await
    }

    async fn stop(&mut self, index: usize) -> Result<()> {
        let server = &mut self.servers[index];
        self.nodes.set_address(server.node, None);
        let Some((mut process, _)) = server.process.take() else {
            return Ok(());
        };
        process.signal("TERM")?;
        let complaint = match process.wait(STOP_LIMIT).await? {
            Some(end) if end.success() => return Ok(()),
            Some(end) => format!("server {index} was stopped: {}", describe(end)),
            None => format!("server {index} does not stop"),
        };
        self.findings.add(Kind::Wrong, complaint);
        Ok(())
    }
}
