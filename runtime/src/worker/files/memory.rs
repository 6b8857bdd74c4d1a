use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::host::ErrorCode;

/// How many bytes may be written, and how many are.
#[derive(Debug, Clone)]
pub(super) struct Quota(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    used: AtomicU64,
    max: u64,
}

impl Quota {
    pub fn new(max: u64) -> Self {
        Self(Arc::new(Counted { used: AtomicU64::new(0), max }))
    }

    pub fn take(&self, bytes: u64) -> Result<(), ErrorCode> {
        let sum = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.0.max);
        let taken = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
        taken.map(drop).map_err(|_| ErrorCode::InsufficientSpace)
    }

    pub fn give_back(&self, bytes: u64) {
        let rest = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
    }
}

/// A file of the writable layer. Lives as long as a name or a descriptor leads to it.
#[derive(Debug)]
pub(super) struct MemoryFile {
    content: Mutex<Content>,
    quota: Quota,
    /// Nothing may change it.
    pub fixed: bool,
}

#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    mtime: i64,
}

impl MemoryFile {
    /// A file with `bytes`, charged to `quota`.
    pub fn new(bytes: Vec<u8>, mtime: i64, quota: &Quota) -> Result<Self, ErrorCode> {
        quota.take(bytes.len() as u64)?;
        Ok(Self { content: Mutex::new(Content { bytes, mtime }), quota: quota.clone(), fixed: false })
    }

    /// A file that costs nothing and never changes.
    pub fn fixed(bytes: Vec<u8>) -> Self {
        let quota = Quota::new(0);
        Self { content: Mutex::new(Content { bytes, mtime: now() }), quota, fixed: true }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> u64 {
        self.content().bytes.len() as u64
    }

    pub fn mtime(&self) -> i64 {
        self.content().mtime
    }

    pub fn set_mtime(&self, mtime: i64) {
        self.content().mtime = mtime;
    }

    /// Up to `len` bytes from `offset`.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let content = self.content();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.bytes.len());
        let to = from.saturating_add(len).min(content.bytes.len());
        content.bytes[from..to].to_vec()
    }

    /// Writes at `offset`, or at the end; where it ended.
    pub fn write(&self, offset: Option<u64>, bytes: &[u8]) -> Result<u64, ErrorCode> {
        let mut content = self.content();
        let from = offset.unwrap_or(content.bytes.len() as u64);
        let end = from.checked_add(bytes.len() as u64).ok_or(ErrorCode::FileTooLarge)?;
        if end > content.bytes.len() as u64 {
            self.resize(&mut content, end)?;
        }
        let (from, to) = (from as usize, end as usize);
        content.bytes[from..to].copy_from_slice(bytes);
        content.mtime = now();
        Ok(end)
    }

    pub fn set_len(&self, len: u64) -> Result<(), ErrorCode> {
        let mut content = self.content();
        self.resize(&mut content, len)?;
        content.mtime = now();
        Ok(())
    }

    fn resize(&self, content: &mut Content, len: u64) -> Result<(), ErrorCode> {
        let old = content.bytes.len() as u64;
        let size = usize::try_from(len).map_err(|_| ErrorCode::FileTooLarge)?;
        if len > old {
            self.quota.take(len - old)?;
            // An eighth ahead, so that appending stays cheap and the quota stays honest.
            let ahead = if size > content.bytes.capacity() { size / 8 } else { 0 };
            if content.bytes.try_reserve_exact(size - content.bytes.len() + ahead).is_err() {
                self.quota.give_back(len - old);
                return Err(ErrorCode::InsufficientMemory);
            }
        } else {
            self.quota.give_back(old - len);
        }
        content.bytes.resize(size, 0);
        if len < old / 2 {
            content.bytes.shrink_to_fit();
        }
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if !self.fixed {
            let len = self.len();
            self.quota.give_back(len);
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_holds_for_all_files_together_and_is_given_back() {
        let quota = Quota::new(100);
        let one = MemoryFile::new(vec![1; 40], 0, &quota).unwrap();
        let two = MemoryFile::new(vec![2; 40], 0, &quota).unwrap();
        assert_eq!(one.write(None, &[0; 21]).unwrap_err(), ErrorCode::InsufficientSpace);
        assert_eq!(one.set_len(1 << 62).unwrap_err(), ErrorCode::InsufficientSpace);
        assert_eq!(one.write(Some(u64::MAX), &[0]).unwrap_err(), ErrorCode::FileTooLarge);
        assert_eq!(one.write(None, &[0; 20]), Ok(60));
        drop(two);
        assert_eq!(one.write(Some(90), &[7; 10]), Ok(100));
        assert_eq!(one.read(89, 3), [0, 7, 7]);
        one.set_len(0).unwrap();
        assert!(MemoryFile::new(vec![0; 100], 0, &quota).is_ok());
    }
}
