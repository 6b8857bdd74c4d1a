//! A machine that loses power: everything that was not synced is gone, and until then every access
//! to the disk fails. Takes root, to mount a file system of its own; without, it prints that it was
//! skipped.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use spec::Digest;
use tokio::time::sleep;

use super::{
    fixture::{TestRegistry, noise},
    process::{Lane, is_whole, kill_while},
};

/// A file system on a block device that is a file.
struct Disk {
    folder: tempfile::TempDir,
    /// Attached for as long as this is: what it has in its cache is that of the disk.
    device: PathBuf,
}

/// What `program` prints, if it succeeds.
fn run(program: &str, args: &[&str], paths: &[&Path]) -> Option<String> {
    let done = Command::new(program).args(args).args(paths).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

impl Disk {
    fn make() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(folder.path().join("disk")).unwrap();
        run("mkfs.ext4", &["-q", "-F"], &[&image])?;
        let device = run("losetup", &["--find", "--show"], &[&image])?.into();
        let disk = Self { folder, device };
        disk.mount().then_some(disk)
    }

    /// Where it is mounted.
    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn mount(&self) -> bool {
        run("mount", &[], &[&self.device, &self.path()]).is_some()
    }

    /// From now on nothing reaches the disk, not even what is on its way (`FS_IOC_SHUTDOWN` with
    /// `NOLOGFLUSH`).
    fn cut_power(&self) {
        let cut = r#"my $how = pack("I", 2);
            open(D, "<", $ARGV[0]) && ioctl(D, 0x8004587d, $how) or die $!"#;
        run("perl", &["-e", cut], &[&self.path()]).expect("the power is cut");
    }

    /// Power is back, and the file system has read its journal.
    fn restore_power(&self) {
        assert!(run("umount", &[], &[&self.path()]).is_some() && self.mount());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["--lazy"], &[&self.path()]);
        run("losetup", &["--detach"], &[&self.device]);
    }
}

/// Pushes images until the registry is gone or fails. Returns those that it acknowledged.
async fn push_images(lane: Lane) -> Vec<Digest> {
    let mut acknowledged = Vec::new();
    for round in 0u32.. {
        let config = format!("{{\"lane\":{},\"round\":{round}}}", lane.number).into_bytes();
        let layer = noise(lane.number as u8, 1 + (round as usize * 7919) % 90_000);
        match lane.push_image(&[config, layer], None).await {
            Some((201, image)) => acknowledged.push(image),
            _ => break,
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_whose_machine_loses_power_keeps_every_image_it_acknowledged() {
    let Some(disk) = Disk::make() else {
        println!("SKIPPED: mounting a file system needs root, mkfs.ext4 and losetup");
        return;
    };
    let data = tempfile::tempdir_in(disk.path()).unwrap();
    // The folder itself is no part of what is tested.
    std::fs::File::open(disk.path()).unwrap().sync_all().unwrap();
    let prepare = |round: u32| {
        if round > 0 {
            disk.restore_power();
        }
    };
    // At another point of what it does each time.
    let until = async |round: u32| {
        sleep(Duration::from_millis(250 + u64::from(round) * 53)).await;
        disk.cut_power();
        // What is asked for now meets a disk that fails, and must not be acknowledged.
        sleep(Duration::from_millis(100)).await;
    };
    let all = kill_while(data.path(), "serve", 5, (prepare, until), push_images).await;
    disk.restore_power();
    let server = TestRegistry::open_in(data, |_| ()).await;
    for image in &all {
        assert!(is_whole(&server, &image.to_string()).await, "{image}");
    }
    assert_eq!(server.admin.scrub(Some(u64::MAX)).await.unwrap().damaged, []);
    drop(server.close().await);
}
