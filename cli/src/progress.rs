//! Bars on a terminal, plain lines elsewhere, silence when asked.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use packager::ImportStep;
use spec::Digest;

use crate::output::{notice, size};

/// How the blobs of one push or pull are coming along.
pub struct Progress {
    shown: Shown,
    bars: Mutex<BTreeMap<Digest, ProgressBar>>,
}

enum Shown {
    Bars(MultiProgress),
    Lines,
    Nothing,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let shown = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Shown::Nothing,
            (false, true) => {
                Shown::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(15)))
            }
            (false, false) => Shown::Lines,
        };
        Self { shown, bars: Mutex::default() }
    }

    /// The `total` bytes of `digest` begin to move, or begin again.
    pub fn start(&self, digest: Digest, total: u64) {
        let Shown::Bars(all) = &self.shown else { return };
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(digest).or_insert_with(|| {
            all.add(ProgressBar::new(total)).with_style(style()).with_prefix(digest.short())
        });
        bar.set_length(total);
        bar.set_position(0);
    }

    /// `bytes` of `digest` have moved so far.
    pub fn moved(&self, digest: Digest, bytes: u64) {
        if let Some(bar) = self.bars.lock().unwrap_or_else(PoisonError::into_inner).get(&digest) {
            bar.set_position(bytes);
        }
    }

    /// `digest` is through, and `what` happened to it.
    pub fn done(&self, digest: Digest, total: u64, what: &str) {
        match &self.shown {
            Shown::Bars(all) => {
                let bar = self.bars.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                let _ = all.println(format!("{}  {:>9}  {what}", digest.short(), size(total)));
            }
            Shown::Lines => notice(format_args!("{}  {:>9}  {what}", digest.short(), size(total))),
            Shown::Nothing => {}
        }
    }
}

/// How far an archive has come in. Shown on a terminal only, and not before it takes a second.
pub struct LoadProgress {
    bar: ProgressBar,
    checking: Cell<bool>,
}

/// Until then nothing is worth a bar.
const BAR_DELAY: Duration = Duration::from_secs(1);

impl LoadProgress {
    pub fn new() -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(15),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target).with_style(style());
        Self { bar: bar.with_prefix("reading"), checking: Cell::new(false) }
    }

    pub fn step(&self, step: ImportStep) {
        let (bytes, total) = match step {
            ImportStep::Reading { bytes, total } => (bytes, total),
            ImportStep::Checking { bytes, total } => {
                if !self.checking.replace(true) {
                    self.bar.set_prefix("checking layers");
                }
                (bytes, total)
            }
        };
        if self.bar.elapsed() > BAR_DELAY {
            self.bar.set_length(total);
            self.bar.set_position(bytes);
        }
    }
}

impl Drop for LoadProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}  {bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
