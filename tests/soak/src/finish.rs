//! The end of a run: no more faults, the reapers come to rest, and everything is looked at from
//! outside.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::StreamExt;

use crate::api::NodeId;
use crate::audit::{State, check_histories, check_state, check_uploads, found_out};
use crate::client::{Sight, World};
use crate::findings::Kind;
use crate::fleet::Fleet;
use crate::outside::Outside;
use crate::process::{describe, wait};
use crate::proxy::Proxy;

/// A held call may be on its way for so long.
const QUIET_LIMIT: Duration = Duration::from_secs(45);
/// A killed reaper's rows are left alone for two minutes, and rows whose deletion failed back off.
const REST_LIMIT: Duration = Duration::from_secs(480);
/// Twenty times `storage.s3.operation_timeout`, and some.
const PROBES_LIMIT: Duration = Duration::from_secs(90);
const VERIFY_LIMIT: Duration = Duration::from_secs(600);
const READ_PATIENCE: Duration = Duration::from_secs(20);
const READ_ATTEMPTS: usize = 4;
const READERS: usize = 24;

/// Lines of a server's log that no run may have.
const FORBIDDEN: &[&str] = &[
    "panicked at",
    "an actor ended unexpectedly",
    "is missing or wrong",
    "refused an inconsistent write",
];

/// What the end saw.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) rest_seconds: f64,
    pub(crate) live_images: u64,
    pub(crate) deleted_images: u64,
    pub(crate) originals: u64,
    pub(crate) objects: u64,
    /// Images of uploads whose clients were never told.
    pub(crate) found_out: u64,
}

/// Waits for rest and checks everything; findings are added to the world's.
pub(crate) async fn judge(
    fleet: &mut Fleet,
    world: &Arc<World>,
    proxy: &Proxy,
    outside: &Outside,
    folder: &Path,
) -> Result<Judged> {
    let began = Instant::now();
    while proxy.in_flight() > 0 && began.elapsed() < QUIET_LIMIT {
        fleet.supervise()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let state = rest(fleet, outside).await?;
    probes(fleet, outside, world).await?;
    let mut judged = Judged {
        rest_seconds: began.elapsed().as_secs_f64(),
        originals: state.originals.len() as u64,
        objects: state.objects.len() as u64,
        ..Judged::default()
    };
    report(world, check_state(&state));
    for text in outside.never().await? {
        world.findings.add(Kind::Miscounted, text);
    }
    let before = world.journal.snapshot();
    for (row, invoked) in found_out(&state, &before) {
        world.journal.found_out(row.id, invoked);
        judged.found_out += 1;
    }
    read_back(world, &state, &mut judged).await;
    let record = world.journal.snapshot();
    report(world, check_uploads(&state, &record));
    report(world, check_histories(&state, &record));
    verify(fleet, world, folder).await?;
    fleet.supervise()?;
    temporary_files(fleet, world);
    fleet.stop_servers().await?;
    read_logs(world, folder)?;
    if !world.findings.is_empty() {
        keep_evidence(fleet, &state, folder)?;
    }
    Ok(judged)
}

/// What is gone with the cluster, for whoever looks into a finding.
fn keep_evidence(fleet: &Fleet, state: &State, folder: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(folder.join("state.txt"))?);
    for row in &state.originals {
        writeln!(file, "{row:?}")?;
    }
    for row in &state.images {
        writeln!(file, "{row:?}")?;
    }
    for (key, size) in &state.objects {
        writeln!(file, "object {key} of {size} bytes")?;
    }
    file.flush()?;
    std::fs::write(folder.join("postgres.txt"), fleet.cluster.log())?;
    Ok(())
}

fn report(world: &World, wrong: Vec<(Kind, String)>) {
    for (kind, text) in wrong {
        world.findings.add(kind, text);
    }
}

/// Waits until nothing is left to do, or too long; the state then.
async fn rest(fleet: &mut Fleet, outside: &Outside) -> Result<State> {
    let deadline = Instant::now() + REST_LIMIT;
    loop {
        fleet.supervise()?;
        if outside.open_rows().await? == 0 || Instant::now() > deadline {
            let state = outside.state(fleet.s3_address()?).await?;
            if check_state(&state).is_empty() || Instant::now() > deadline {
                return Ok(state);
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Starts that were killed leave objects of their probes, which a later start deletes.
async fn probes(fleet: &mut Fleet, outside: &Outside, world: &World) -> Result<()> {
    let deadline = Instant::now() + PROBES_LIMIT;
    loop {
        fleet.restart_one().await?;
        let left = outside.own_objects(fleet.s3_address()?).await?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            for key in left {
                world.findings.add(Kind::Leaked, format!("object {key}"));
            }
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// Every image, on every server: the live ones' bytes, hashed again; the deleted ones' absence. What
/// is seen becomes part of the histories, which are checked afterwards.
async fn read_back(world: &Arc<World>, state: &State, judged: &mut Judged) {
    let deleted = state.images.iter().filter(|image| image.deleted).count();
    judged.deleted_images = deleted as u64;
    judged.live_images = (state.images.len() - deleted) as u64;
    let nodes: Vec<NodeId> = world.api.nodes.ids().collect();
    let looks = state
        .images
        .iter()
        .flat_map(|image| nodes.iter().map(move |node| (image, *node)));
    futures::stream::iter(looks)
        .for_each_concurrent(READERS, |(image, node)| async move {
            let expected = (!image.deleted).then_some(image.hash.as_str());
            for _ in 0..READ_ATTEMPTS {
                let sight = world.look(node, image.id, expected, READ_PATIENCE).await;
                if let Sight::Saw(_) = sight {
                    return;
                }
            }
            let text = format!("image {} cannot be read on server {}", image.id, node.0);
            world.findings.add(Kind::Lost, text);
        })
        .await;
}

/// The product's own judgement must be the same.
async fn verify(fleet: &Fleet, world: &World, folder: &Path) -> Result<()> {
    let said = folder.join("verify.txt");
    let file = File::create(&said)?;
    let mut command = fleet.hapax(&["verify", "--deep"]);
    command
        .stdin(Stdio::null())
        .stderr(file.try_clone()?)
        .stdout(file);
    let mut child = command.spawn()?;
    let ended = wait(&mut child, VERIFY_LIMIT).await?;
    let text = std::fs::read_to_string(&said)?;
    eprintln!("soak: hapax verify --deep: {}", text.trim());
    if !ended.is_some_and(|status| status.success()) {
        let end = ended.map_or("no end".to_owned(), describe);
        let text = format!("hapax verify --deep: {end}: {text}");
        world.findings.add(Kind::Wrong, text);
    }
    Ok(())
}

/// The servers' folders hold nothing but empty folders, and no server holds a file without a name.
fn temporary_files(fleet: &Fleet, world: &World) {
    let mut left = fleet.unlinked_files();
    for server in &fleet.servers {
        files_below(&server.folder, &mut left);
    }
    for file in left {
        world
            .findings
            .add(Kind::Leaked, format!("temporary file {file}"));
    }
}

fn files_below(folder: &Path, found: &mut Vec<String>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&path, found),
            _ => found.push(path.display().to_string()),
        }
    }
}

fn read_logs(world: &World, folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if !is_log {
            continue;
        }
        let text = std::fs::read(&path)?;
        let text = String::from_utf8_lossy(&text);
        let forbidden = |line: &&str| FORBIDDEN.iter().any(|part| line.contains(part));
        for line in text.lines().filter(forbidden) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            world.findings.add(Kind::Wrong, format!("{name}: {line}"));
        }
    }
    Ok(())
}
