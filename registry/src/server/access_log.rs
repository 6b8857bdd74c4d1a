//! One line for each request, in files that are replaced by others when they are long.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
};

use serde::Serialize;
use spec::Timestamp;

use crate::limits::{ACCESS_LOG_BYTES_MAX, ACCESS_LOG_FILES, ACCESS_LOG_QUEUE, LOGGED_CHARS_MAX};

/// Writes lines on a thread of its own: no request waits for a disk because it is logged.
pub(super) struct AccessLog(SyncSender<Vec<u8>>);

/// A request that has ended. Neither its headers nor its query are in it, for these may have
/// secrets.
#[derive(Serialize)]
pub(super) struct AccessLine<'a> {
    pub time: Timestamp,
    pub address: String,
    /// As in the audit log; empty for a client without a login.
    pub principal: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub status: u16,
    /// Bytes of the bodies, as far as they came.
    pub received: u64,
    pub sent: u64,
    /// From the head of the request to the end of the answer.
    pub seconds: f64,
    pub user_agent: &'a str,
}

/// The file that is written, and how long it is.
struct Writer {
    path: PathBuf,
    file: Option<(BufWriter<File>, u64)>,
}

impl AccessLog {
    /// Its files are `access.log` in `folder`, which is made when there is a first line, and older
    /// ones beside it.
    pub fn new(folder: &Path) -> Self {
        let (sender, lines) = sync_channel(ACCESS_LOG_QUEUE);
        let writer = Writer { path: folder.join("access.log"), file: None };
        // It ends when its last sender is dropped.
        std::thread::spawn(move || writer.run(&lines));
        Self(sender)
    }

    /// Whether there was a place for the line.
    pub fn write(&self, line: &AccessLine<'_>) -> bool {
        let mut bytes = serde_json::to_vec(line).expect("its fields are text and numbers");
        bytes.push(b'\n');
        self.0.try_send(bytes).is_ok()
    }
}

impl Writer {
    fn run(mut self, lines: &Receiver<Vec<u8>>) {
        loop {
            let line = match lines.try_recv() {
                Ok(line) => line,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    // All that came at once is in the file before the next is waited for.
                    self.flush();
                    match lines.recv() {
                        Ok(line) => line,
                        Err(_) => return,
                    }
                }
            };
            if let Err(error) = self.write(&line) {
                tracing::warn!(path = %self.path.display(), %error, "cannot write the access log");
                self.file = None;
            }
        }
    }

    fn flush(&mut self) {
        if let Some((file, _)) = &mut self.file
            && let Err(error) = file.flush()
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot write the access log");
            self.file = None;
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.file.as_ref().is_some_and(|(_, bytes)| *bytes >= ACCESS_LOG_BYTES_MAX) {
            self.flush();
            self.file = None;
            self.rotate()?;
        }
        let (file, bytes) = match &mut self.file {
            Some(open) => open,
            None => self.file.insert(open(&self.path)?),
        };
        file.write_all(line)?;
        *bytes += line.len() as u64;
        Ok(())
    }

    /// `access.log` becomes `access.log.1`, that `access.log.2`, and the oldest goes.
    fn rotate(&self) -> io::Result<()> {
        let numbered = |n: usize| match n {
            0 => self.path.clone(),
            n => self.path.with_extension(format!("log.{n}")),
        };
        for n in (0..ACCESS_LOG_FILES - 1).rev() {
            match fs::rename(numbered(n), numbered(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(BufWriter<File>, u64)> {
    if let Some(folder) = path.parent() {
        disk::private_folder(folder)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((BufWriter::new(file), bytes))
}

/// The first characters of a text that a client has chosen.
pub(super) fn shortened(text: &str) -> &str {
    let end = text.char_indices().nth(LOGGED_CHARS_MAX).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_a_limit_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer { path: dir.path().join("access/access.log"), file: None };
        let line = vec![b'x'; (ACCESS_LOG_BYTES_MAX / 2) as usize];
        for _ in 0..4 * ACCESS_LOG_FILES {
            writer.write(&line).unwrap();
        }
        writer.flush();
        let files = fs::read_dir(dir.path().join("access")).unwrap();
        let sizes: Vec<_> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), ACCESS_LOG_FILES);
        assert!(sizes.iter().all(|bytes| *bytes <= ACCESS_LOG_BYTES_MAX), "{sizes:?}");
    }

    #[test]
    fn what_a_client_has_chosen_is_shortened_between_characters() {
        assert_eq!(shortened("docker/27"), "docker/27");
        assert_eq!(shortened(&"é".repeat(9999)).chars().count(), LOGGED_CHARS_MAX);
    }
}
