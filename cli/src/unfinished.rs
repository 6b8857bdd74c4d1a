//! Files and folders that a verb makes on its way outside of the home: a signal that ends the verb
//! removes them first. Inside the home the next command finds and removes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::serve::block_on;

/// What is removed; `None` before the first of them.
static PATHS: Mutex<Option<Vec<PathBuf>>> = Mutex::new(None);

/// A path that a signal removes for as long as this lives.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// `path` need not be there any more when it is removed.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.is_none() {
            watch().context("cannot watch for signals")?;
        }
        paths.get_or_insert_default().push(path.to_owned());
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(paths) = paths.as_mut() {
            paths.retain(|path| *path != self.0);
        }
    }
}

/// From here on these signals end the process through [`remove_all`]; one that is ignored, as with
/// `nohup`, stays ignored.
fn watch() -> io::Result<()> {
    let (told, ready) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let number = block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let ignored = ignored();
            let mut waiting = vec![];
            for kind in kinds {
                if ignored >> (kind.as_raw_value() - 1) & 1 == 1 {
                    continue;
                }
                let mut listener = signal(kind)?;
                waiting.push(Box::pin(async move {
                    listener.recv().await;
                    kind.as_raw_value()
                }));
            }
            let _ = told.send(());
            match waiting.is_empty() {
                true => std::future::pending().await,
                false => Ok::<_, io::Error>(futures_util::future::select_all(waiting).await.0),
            }
        });
        if let Ok(number) = number {
            remove_all();
            std::process::exit(128 + number);
        }
    })?;
    // Without the answer there is no listener, and the signals end the process as ever.
    let _ = ready.recv();
    Ok(())
}

/// The signals that this process was started to ignore, a bit each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn remove_all() {
    let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    for path in paths.take().unwrap_or_default() {
        let _ = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
    }
}
