//! `run/up.log`: what the processes of a platform in the background have to say.
//!
//! Each of them writes to the end of the one file. It is emptied when it is full, so that none of
//! them has to open another, and what it held is kept once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    home::Home,
    output::{notice, printable},
};

/// Weeks of a platform that has little to say, and twice this on disk at most.
const BYTES_MAX: u64 = 8 << 20;
/// Between two looks at its size.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Of what was written while it started, so much is shown again.
const SHOWN_BYTES_MAX: u64 = 64 << 10;

pub struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub fn open(home: &Home) -> anyhow::Result<Self> {
        let path = Self::path(home);
        home.folder("run")?;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self { path, file })
    }

    pub fn path(home: &Home) -> PathBuf {
        home.path().join("run/up.log")
    }

    /// For a process to write to.
    pub fn writer(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Shows on stderr what was written since it had `start` bytes.
    pub fn show_from(&self, start: u64) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(SHOWN_BYTES_MAX).read_to_end(&mut bytes)?;
        for line in String::from_utf8_lossy(&bytes).lines() {
            notice(format_args!("{}", printable(line)));
        }
        Ok(())
    }

    /// Empties it whenever it is full. A failure is no reason to end the platform.
    pub async fn keep_short(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.rotate(BYTES_MAX) {
                notice(format_args!("`{}` could not be emptied: {error}", self.path.display()));
            }
        }
    }

    /// A line that is written between the copy and the end of this is lost.
    fn rotate(&self, bytes_max: u64) -> io::Result<()> {
        if self.bytes()? < bytes_max {
            return Ok(());
        }
        let (earlier, new) = (sibling(&self.path, "1"), sibling(&self.path, "new"));
        let mut from = File::open(&self.path)?;
        let mut to =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        io::copy(&mut from, &mut to)?;
        self.file.set_len(0)?;
        fs::rename(new, earlier)
    }
}

fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_full_log_is_emptied_and_kept_once_while_others_write_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("home"))).unwrap();
        let log = LogFile::open(&home).unwrap();
        let mut other = log.writer().unwrap();
        let text = |name: &str| fs::read_to_string(home.path().join("run").join(name)).unwrap();
        for (line, now, before) in [
            ("one\n", "one\n", None),
            ("two\n", "", Some("one\ntwo\n")),
            ("three\n", "three\n", Some("one\ntwo\n")),
            ("four\n", "", Some("three\nfour\n")),
        ] {
            other.write_all(line.as_bytes()).unwrap();
            log.rotate(8).unwrap();
            assert_eq!(text("up.log"), now, "after {line}");
            if let Some(before) = before {
                assert_eq!(text("up.log.1"), before, "after {line}");
            }
        }
        assert_eq!(fs::read_dir(home.path().join("run")).unwrap().count(), 2);
    }
}
