use std::{
    fs::{self, File},
    io::{self, IsTerminal as _, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    failure::{self, Advice, USAGE_ERROR},
    flags::remote,
    home::Home,
    image_events, images,
    output::{size, tell_notes},
    progress::LoadProgress,
};

/// Take images in from a file: an archive of `docker save`, an OCI layout (tar or folder), or a
/// .wasm; archives may be compressed with gzip, zstd, xz or bzip2
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  docker save app:v1 | margay load
  margay load -i app.tar
  margay import ./layout")]
pub struct Args {
    /// The file or folder, as `docker load` takes it
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    input: Option<PathBuf>,
    /// The file or folder [default: stdin]
    file: Option<PathBuf>,
}

impl Args {
    /// Prints `NAME@DIGEST` for each name.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let given = self.input.or(self.file);
        if let Some(address) = given.as_deref().and_then(remote) {
            bail!(
                Advice::new(format!("`{address}` is no file: no verb fetches an archive"))
                    .hint(format!("curl -sSfL {address} | margay load"))
            );
        }
        match given {
            Some(path) if path != Path::new("-") => import(home, &path),
            _ => import_stdin(home),
        }
    }
}

fn import(home: &Home, path: &Path) -> anyhow::Result<()> {
    let progress = LoadProgress::new();
    let imported = packager::import(&images::layout(home)?, path, &|step| progress.step(step))?;
    drop(progress);
    for image in imported {
        tell_notes(&image.notes);
        for name in &image.references {
            image_events::record(home, "load", name, image.descriptor.digest);
        }
        images::print_pinned(&image.references, image.descriptor.digest);
    }
    Ok(())
}

struct Room {
    bytes_max: u64,
    /// Left free for everything else on that disk.
    free_bytes_min: u64,
}

/// As much as an archive in a file may have; and a disk that is full stops more than us.
const ROOM: Room = Room { bytes_max: packager::ARCHIVE_BYTES_MAX, free_bytes_min: 64 << 20 };
/// Looked at the disk as often.
const STRIDE_BYTES: u64 = 16 << 20;

/// An archive is read more than once, and a pipe only once: it becomes a file first.
fn import_stdin(home: &Home) -> anyhow::Result<()> {
    let stdin = io::stdin().lock();
    ensure!(
        !stdin.is_terminal(),
        Advice::new("an image is nothing to type")
            .hint("name a file: margay load -i FILE")
            .code(USAGE_ERROR)
    );
    let folder = home.folder("run")?;
    forget_the_killed(&folder);
    let path = folder.join(format!("stdin-{}.tar", std::process::id()));
    let imported = keep(stdin, &path, &ROOM).and_then(|_lock| {
        import(home, &path).map_err(|error| failure::about_stdin(&error, &path).into())
    });
    let _ = fs::remove_file(&path);
    imported
}

/// Copies a pipe into the file at `path`, which is locked for as long as the answer lives.
fn keep(mut pipe: impl Read, path: &Path, room: &Room) -> anyhow::Result<File> {
    let writing = || format!("cannot write `{}`", path.display());
    let mut file = File::create(path).with_context(writing)?;
    file.try_lock().with_context(writing)?;
    let mut bytes = 0;
    loop {
        let copied =
            io::copy(&mut pipe.by_ref().take(STRIDE_BYTES), &mut file).with_context(writing)?;
        bytes += copied;
        ensure!(bytes <= room.bytes_max, "an archive has at most {}", size(room.bytes_max));
        let disk = rustix::fs::fstatvfs(&file).with_context(writing)?;
        ensure!(
            disk.f_bavail.saturating_mul(disk.f_frsize) >= room.free_bytes_min,
            Advice::new(format!(
                "the archive does not fit: the disk of `{}` is full after {}",
                path.display(),
                size(bytes)
            ))
            .hint("make room: margay prune; or let --home name a folder on another disk")
        );
        ensure!(
            bytes > 0,
            Advice::new("stdin is empty")
                .hint("pipe an archive in, or name a file: margay load -i FILE")
        );
        if copied < STRIDE_BYTES {
            return Ok(file);
        }
    }
}

/// Ctrl-C leaves a file behind, without a lock.
fn forget_the_killed(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with("stdin-"));
        if is_ours
            && disk::open(&entry.path(), disk::Purpose::Read)
                .is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_kept_up_to_its_limit_and_as_long_as_the_disk_has_room() {
        let folder = tempfile::tempdir().expect("a folder");
        for (at, (bytes, bytes_max, free_bytes_min, want)) in [
            (0, 1000, 0, Err("stdin is empty")),
            (1000, 1000, 0, Ok(1000)),
            (1001, 1000, 0, Err("an archive has at most 1000 B")),
            (STRIDE_BYTES + 1, STRIDE_BYTES + 1, 0, Ok(STRIDE_BYTES + 1)),
            (10, 1000, u64::MAX, Err("is full after 10 B")),
        ]
        .into_iter()
        .enumerate()
        {
            // Each its own: a process that another test starts holds the lock of the one before for
            // a moment.
            let path = folder.path().join(format!("stdin-{at}.tar"));
            match (
                keep(io::repeat(1).take(bytes), &path, &Room { bytes_max, free_bytes_min }),
                want,
            ) {
                (Ok(file), Ok(want)) => assert_eq!(file.metadata().expect("metadata").len(), want),
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
                (got, want) => panic!("{bytes} of {bytes_max}: {got:?} and not {want:?}"),
            }
        }
    }

    #[test]
    fn what_a_killed_load_left_goes_and_what_a_living_one_holds_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = folder.path().join("stdin-1.tar");
        let lock = keep(io::repeat(1).take(1), &held, &ROOM).expect("it fits");
        fs::write(folder.path().join("stdin-2.tar"), "left").expect("a file");
        fs::write(folder.path().join("other"), "of another user").expect("a file");
        forget_the_killed(folder.path());
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .expect("a folder")
            .flatten()
            .map(|e| e.file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["other", "stdin-1.tar"]);
        drop(lock);
    }
}
