//! How long an image is scanned, and how long many are compared with new data.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use spec::{Descriptor, Digest, MediaType, Timestamp};

use super::{
    Stand,
    client::Client,
    peers::{Peer, REPOSITORY},
};
use crate::measure;

/// A folder with a Linux that has `/var/lib/dpkg`, whose files become the layer of an image.
const ROOT: &str = "MARGAY_BENCH_DEBIAN";
const IMAGES: usize = 10_000;
/// Packages of each image, of which some have another version than in the image before.
const PACKAGES: usize = 300;
const VERSIONS: usize = 50;
/// Images and artifacts in turn, for the machine has other work.
const PUSH_ROUNDS: usize = 5;
const PUSHES_PER_ROUND: usize = 100;
const IDLE_TIME: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_secs(1800);

pub fn run(stand: &mut Stand<'_>) -> Result<()> {
    let mut rows = Vec::new();
    match std::env::var(ROOT) {
        Ok(root) => rows.push(one_image(&stand.margay()?, &root)?),
        Err(_) => println!("not measured: an image of Debian, whose folder {ROOT} has to name"),
    }
    rows.push(pushes(&stand.margay()?)?);
    let images = if stand.options.small { IMAGES / 10 } else { IMAGES };
    rows.push(many_images(&mut stand.margay()?, images)?);
    measure::table(["scan", "of", "time"], &rows);
    println!();
    Ok(())
}

/// From the push of the manifest until the image is scanned.
fn one_image(peer: &Peer, root: &str) -> Result<[String; 3]> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("layer.tar.gz");
    let made = Command::new("tar").arg("-C").arg(root).arg("-czf").arg(&file).arg(".").status()?;
    ensure!(made.success(), "cannot pack `{root}`");
    let layer = fs::read(&file)?;
    let mut client = Client::connect(&peer.address)?;
    push(&mut client, "debian", &layer, MediaType::OCI_LAYER_GZIP)?;
    let began = Instant::now();
    let scanned = peer.command(&["sbom", &format!("{REPOSITORY}:debian")]).output()?;
    ensure!(scanned.status.success(), "the image is not scanned");
    let megabytes = layer.len() as f64 / 1e6;
    Ok([
        "a Debian".to_owned(),
        format!("{megabytes:.0} MB, compressed"),
        format!("{:.2} s", began.elapsed().as_secs_f64()),
    ])
}

/// What an image costs the processor more than the same blobs under a manifest that is no image:
/// its survey and its scan, and what is written of them.
fn pushes(peer: &Peer) -> Result<[String; 3]> {
    let mut client = Client::connect(&peer.address)?;
    let mut spent = [Duration::ZERO; 2];
    for round in 0..PUSH_ROUNDS {
        for (kind, spent) in spent.iter_mut().enumerate() {
            wait_for_idle(peer)?;
            let before = peer.cpu_time();
            for number in 0..PUSHES_PER_ROUND {
                let number = (round * 2 + kind) * PUSHES_PER_ROUND + number;
                let (layer, tag) = (layer(number)?, format!("v{number}"));
                match kind {
                    0 => push(&mut client, &tag, &layer, MediaType::OCI_LAYER_TAR)?,
                    _ => push_artifact(&mut client, &tag, &layer)?,
                }
            }
            wait_for_idle(peer)?;
            *spent += peer.cpu_time().saturating_sub(before);
        }
    }
    let pushes = f64::from(u32::try_from(PUSH_ROUNDS * PUSHES_PER_ROUND)?);
    let [image, artifact] = spent.map(|spent| spent.as_secs_f64() * 1e3 / pushes);
    Ok([
        "a push".to_owned(),
        format!("{PACKAGES} packages"),
        format!("{image:.2} ms of processor, {artifact:.2} without a scan"),
    ])
}

/// The import of data that is about many of their packages.
fn many_images(peer: &mut Peer, images: usize) -> Result<[String; 3]> {
    let mut client = Client::connect(&peer.address)?;
    for number in 0..images {
        if number % 5_000 == 0 {
            peer.log_in()?;
            client = Client::connect(&peer.address)?;
        }
        push(&mut client, &format!("v{number}"), &layer(number)?, MediaType::OCI_LAYER_TAR)?;
    }
    let last = format!("{REPOSITORY}:v{}", images - 1);
    let began = Instant::now();
    while !peer.command(&["sbom", &last]).status()?.success() {
        ensure!(began.elapsed() < WAIT, "the images are not scanned");
    }
    let folder = tempfile::tempdir()?;
    for package in 0..PACKAGES {
        let record = record(package);
        fs::write(folder.path().join(format!("{package}.json")), record)?;
    }
    wait_for_scans(peer, images)?;
    let source = folder.path().to_str().context("a path of text")?.to_owned();
    let began = Instant::now();
    let imported = peer.command(&["vulndb", "import", &source]).status()?;
    ensure!(imported.success(), "the data is not imported");
    let time = began.elapsed().as_secs_f64();
    Ok(["new data".to_owned(), format!("{images} images"), format!("{time:.2} s")])
}

fn wait_for_scans(peer: &Peer, images: usize) -> Result<()> {
    let began = Instant::now();
    wait_for_idle(peer)?;
    println!("{images} images were scanned after {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Until the processor of the registry has nothing to do.
fn wait_for_idle(peer: &Peer) -> Result<()> {
    let began = Instant::now();
    loop {
        let before = peer.cpu_time();
        std::thread::sleep(IDLE_TIME);
        if peer.cpu_time().saturating_sub(before) < IDLE_TIME / 25 {
            return Ok(());
        }
        ensure!(began.elapsed() < WAIT, "the registry does not come to rest");
    }
}

fn push(client: &mut Client, tag: &str, layer: &[u8], media_type: &'static str) -> Result<()> {
    let layers = json!([Descriptor::of(media_type, layer)]);
    push_manifest(client, tag, layer, layers)
}

/// The same blobs, of which the manifest does not name the layer.
fn push_artifact(client: &mut Client, tag: &str, layer: &[u8]) -> Result<()> {
    push_manifest(client, tag, layer, json!([]))
}

fn push_manifest(client: &mut Client, tag: &str, layer: &[u8], layers: Value) -> Result<()> {
    let digest = Digest::of(layer);
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": Descriptor::of(MediaType::OCI_CONFIG, &config),
        "layers": layers,
    });
    client.push(REPOSITORY, &config, &Digest::of(&config))?;
    client.push(REPOSITORY, layer, &digest)?;
    let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
    client.expect("PUT", &path, manifest.to_string().as_bytes(), 201).map(drop)
}

/// The database of packages of an image.
fn layer(number: usize) -> Result<Vec<u8>> {
    let mut status = String::new();
    for package in 0..PACKAGES {
        let version = if package % 10 == number % 10 { number % VERSIONS } else { 0 };
        status += &format!(
            "Package: package-{package}\nStatus: install ok installed\nVersion: 1.{version}-1\n\n"
        );
    }
    let mut archive = image::ArchiveWriter::new(Vec::new());
    let attributes = image::Attributes { mode: 0o644, ..image::Attributes::default() };
    let system = format!("ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"{number}\"\n");
    for (path, text) in [("usr/lib/os-release", &system), ("var/lib/dpkg/status", &status)] {
        let mut bytes = text.as_bytes();
        archive.file(path.as_bytes(), text.len() as u64, &mut bytes, attributes)?;
    }
    Ok(archive.finish()?)
}

/// A vulnerability of one of the packages.
fn record(package: usize) -> String {
    let now = Timestamp::of(SystemTime::now());
    json!({
        "id": format!("CVE-2026-{package}"),
        "modified": now.to_string(),
        "database_specific": {"severity": "HIGH"},
        "affected": [{
            "package": {"ecosystem": "Debian:12", "name": format!("package-{package}")},
            "ranges": [{
                "type": "ECOSYSTEM",
                "events": [{"introduced": "0"}, {"fixed": "1.20-1"}],
            }],
        }],
    })
    .to_string()
}
