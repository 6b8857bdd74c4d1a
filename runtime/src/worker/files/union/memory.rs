use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::limits::FILE_SPARE_BYTES_MAX;
use crate::worker::files::filesystem::{ErrorCode, NewTimes, Result, Times};

/// How many bytes may be written, and how many are.
#[derive(Debug, Clone)]
pub(crate) struct Quota(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    used: AtomicU64,
    max: u64,
}

impl Quota {
    pub fn new(max: u64) -> Self {
        Self(Arc::new(Counted { used: AtomicU64::new(0), max }))
    }

    pub fn take(&self, bytes: u64) -> Result<()> {
        let sum = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.0.max);
        let taken = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
        taken.map(drop).map_err(|_| ErrorCode::InsufficientSpace)
    }

    /// Takes what is in use already, beyond the limit too.
    pub fn force(&self, bytes: u64) {
        self.0.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn give_back(&self, bytes: u64) {
        let rest = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
    }
}

/// A file of the writable layer. Lives as long as a name or a descriptor leads to it.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    content: Mutex<Content>,
    quota: Quota,
    /// Nothing may change it.
    pub fixed: bool,
}

/// The quota is charged for what `bytes` has reserved, not for what it shows.
#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    times: Times,
}

impl Content {
    fn reserved(&self) -> u64 {
        self.bytes.capacity() as u64
    }
}

impl MemoryFile {
    /// A file with a copy of `bytes`, charged to `quota` before there is one.
    pub fn new(bytes: &[u8], times: Times, quota: &Quota) -> Result<Self> {
        let content = Content { bytes: Vec::new(), times };
        let file = Self { content: Mutex::new(content), quota: quota.clone(), fixed: false };
        if !bytes.is_empty() {
            let mut content = file.content();
            file.reserve(&mut content, bytes.len(), 0)?;
            content.bytes.extend_from_slice(bytes);
        }
        Ok(file)
    }

    /// A file that costs nothing and never changes.
    pub fn fixed(bytes: Vec<u8>) -> Self {
        let quota = Quota::new(0);
        Self { content: Mutex::new(Content { bytes, times: Times::at(now()) }), quota, fixed: true }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> u64 {
        self.content().bytes.len() as u64
    }

    pub fn times(&self) -> Times {
        self.content().times
    }

    pub fn set_times(&self, new: NewTimes) {
        let mut content = self.content();
        content.times = new.over(content.times);
    }

    /// Up to `len` bytes from `offset`.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let content = self.content();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.bytes.len());
        let to = from.saturating_add(len).min(content.bytes.len());
        content.bytes[from..to].to_vec()
    }

    /// Writes at `offset`, or at the end; where it ended.
    pub fn write(&self, offset: Option<u64>, bytes: &[u8]) -> Result<u64> {
        let mut content = self.content();
        let from = offset.unwrap_or(content.bytes.len() as u64);
        let end = from.checked_add(bytes.len() as u64).ok_or(ErrorCode::FileTooLarge)?;
        if end > content.bytes.len() as u64 {
            self.resize(&mut content, end)?;
        }
        let (from, to) = (from as usize, end as usize);
        content.bytes[from..to].copy_from_slice(bytes);
        content.times.modified = (now(), 0);
        Ok(end)
    }

    pub fn set_len(&self, len: u64) -> Result<()> {
        let mut content = self.content();
        self.resize(&mut content, len)?;
        content.times.modified = (now(), 0);
        Ok(())
    }

    fn resize(&self, content: &mut Content, len: u64) -> Result<()> {
        let size = usize::try_from(len).map_err(|_| ErrorCode::FileTooLarge)?;
        if size > content.bytes.capacity() {
            // An eighth ahead, so that appending stays cheap; where the quota ends, without.
            self.reserve(content, size, size / 8).or_else(|_| self.reserve(content, size, 0))?;
        }
        content.bytes.resize(size, 0);
        if size == 0
            || content.bytes.capacity()
                > size.saturating_mul(2).saturating_add(FILE_SPARE_BYTES_MAX)
        {
            let before = content.reserved();
            content.bytes.shrink_to_fit();
            self.quota.give_back(before - content.reserved());
        }
        Ok(())
    }

    /// Reserves `size` bytes and `ahead`, charged first.
    fn reserve(&self, content: &mut Content, size: usize, ahead: usize) -> Result<()> {
        let before = content.reserved();
        let more = (size.saturating_add(ahead) as u64).saturating_sub(before);
        self.quota.take(more)?;
        let wanted = size.saturating_add(ahead) - content.bytes.len();
        let reserved = content.bytes.try_reserve_exact(wanted);
        // What the allocator made of it is what counts.
        let got = content.reserved() - before;
        self.quota.give_back(more.saturating_sub(got));
        self.quota.force(got.saturating_sub(more));
        reserved.map_err(|_| ErrorCode::InsufficientMemory)
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if !self.fixed {
            let reserved = self.content().reserved();
            self.quota.give_back(reserved);
        }
    }
}

/// Whole seconds since 1970: a file is no finer clock than the one that was granted.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_holds_for_all_files_together_and_is_given_back() {
        let quota = Quota::new(100);
        let one = MemoryFile::new(&[1; 40], Times::default(), &quota).unwrap();
        let two = MemoryFile::new(&[2; 40], Times::default(), &quota).unwrap();
        assert_eq!(one.write(None, &[0; 21]).unwrap_err(), ErrorCode::InsufficientSpace);
        assert_eq!(one.set_len(1 << 62).unwrap_err(), ErrorCode::InsufficientSpace);
        assert_eq!(one.write(Some(u64::MAX), &[0]).unwrap_err(), ErrorCode::FileTooLarge);
        assert_eq!(one.write(None, &[0; 20]), Ok(60));
        drop(two);
        assert_eq!(one.write(Some(90), &[7; 10]), Ok(100));
        assert_eq!(one.read(89, 3), [0, 7, 7]);
        one.set_len(0).unwrap();
        assert!(MemoryFile::new(&[0; 100], Times::default(), &quota).is_ok());
    }
    #[test]
    fn truncation_gives_back_memory_with_the_quota() {
        let quota = Quota::new(1 << 20);
        let file = MemoryFile::new(&[1; 1 << 20], Times::default(), &quota).unwrap();
        // Halving step by step, so that no step alone looks like much.
        let mut len = 1u64 << 20;
        while len > 0 {
            len /= 2;
            file.set_len(len).unwrap();
            let reserved = file.content().reserved();
            assert!(
                reserved <= 2 * len + FILE_SPARE_BYTES_MAX as u64,
                "{reserved} bytes for a file of {len}"
            );
            assert_eq!(quota.0.used.load(Ordering::Relaxed), reserved);
        }
        assert_eq!(quota.0.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn appending_is_charged_for_what_is_reserved_ahead() {
        let quota = Quota::new(100_000);
        let file = MemoryFile::new(&[], Times::default(), &quota).unwrap();
        let appended = std::iter::repeat_with(|| file.write(None, &[1; 100]))
            .take_while(Result::is_ok)
            .count();
        assert_eq!(appended, 1000, "at the end of the quota nothing is reserved ahead");
        assert_eq!(quota.0.used.load(Ordering::Relaxed), file.content().reserved());
        drop(file);
        assert_eq!(quota.0.used.load(Ordering::Relaxed), 0);
    }
}
