//! A container's counters: one page of a file, mapped by its worker and readable by every process
//! that may open it, at any time and without asking the worker. They survive the worker, so a
//! killed one is still billed for what it did.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    os::unix::fs::FileExt,
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use engine::Exit;
use rustix::mm::{MapFlags, ProtFlags};
use spec::Usage;

use crate::Error;

pub const PAGE_BYTES: u64 = 4096;

/// The first word of a page: `margay` and the version of what follows.
const MAGIC: u64 = u64::from_le_bytes(*b"margay\x00\x01");

/// The words of a page, in this order.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Counters {
    magic: AtomicU64,
    pub runs: AtomicU64,
    pub failed_runs: AtomicU64,
    pub cpu_ns: AtomicU64,
    pub memory_byte_ms: AtomicU64,
    pub memory_bytes_peak: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
}

/// Makes a page of zeros at `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn create(path: &Path) -> Result<File, Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(Error::file("make", path))?;
    file.set_len(PAGE_BYTES)
        .and_then(|()| file.write_all_at(&MAGIC.to_le_bytes(), 0))
        .map_err(Error::file("write", path))?;
    Ok(file)
}

/// The page's name in a container's folder.
pub const FILE: &str = "usage";

/// The page at `path`, kept when it is there: its counters go on across restarts of a worker.
///
/// # Errors
/// As [`create`].
pub fn open(path: &Path) -> Result<File, Error> {
    match disk::open(path, disk::Purpose::Change) {
        Ok(page) if read(&page).is_ok() => Ok(page),
        _ => create(path),
    }
}

/// What has been used so far, as counted in `page`.
///
/// # Errors
/// When the page cannot be read, or is no usage page.
pub fn read(page: &File) -> Result<Usage, Error> {
    let mut bytes = [0; size_of::<Counters>()];
    page.read_exact_at(&mut bytes, 0).map_err(Error::os("read a usage page"))?;
    let word = |index: usize| {
        let from = index * 8;
        u64::from_le_bytes(bytes[from..from + 8].try_into().expect("eight bytes are eight bytes"))
    };
    match word(0) {
        MAGIC => Ok(Usage {
            runs: word(1),
            failed_runs: word(2),
            cpu_ns: word(3),
            memory_byte_ms: word(4),
            memory_bytes_peak: word(5),
            bytes_in: word(6),
            bytes_out: word(7),
        }),
        _ => Err(Error::os("read a usage page")(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no usage page",
        ))),
    }
}

/// Where in a page a worker writes how it ended.
const EXIT_AT: u64 = 1024;

/// How the container ended, when its worker could still write it. For an agent that was not there
/// for the event.
pub fn read_exit(page: &File) -> Option<Exit> {
    let mut text = vec![0; (PAGE_BYTES - EXIT_AT) as usize];
    page.read_exact_at(&mut text, EXIT_AT).ok()?;
    let end = text.iter().position(|b| *b == 0)?;
    serde_json::from_slice(&text[..end]).ok()
}

/// Forgets the exit of an earlier worker.
pub(crate) fn clear_exit(page: &File) -> io::Result<()> {
    page.write_all_at(&[0], EXIT_AT)
}

pub(crate) fn write_exit(page: &File, exit: &Exit) -> io::Result<()> {
    let bytes_max = (PAGE_BYTES - EXIT_AT) as usize;
    let mut text = serde_json::to_vec(exit)?;
    if text.len() >= bytes_max {
        text = serde_json::to_vec(&Exit::Trap("its message is too long to be kept".to_owned()))?;
    }
    text.resize(bytes_max, 0);
    page.write_all_at(&text, EXIT_AT)
}

/// A page mapped for counting.
#[derive(Debug)]
pub(crate) struct UsagePage(NonNull<Counters>);

// SAFETY: the page is only reached through atomics, and stays mapped as long as the value lives.
unsafe impl Send for UsagePage {}
// SAFETY: as above.
unsafe impl Sync for UsagePage {}

impl UsagePage {
    /// Maps `file`, which [`create`] has made.
    pub fn map(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() < PAGE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the usage page is too short"));
        }
        // SAFETY: a fresh shared mapping of a file that is long enough; nothing else points there.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )?
        };
        NonNull::new(at.cast()).map(Self).ok_or_else(|| io::Error::other("a mapping at nowhere"))
    }
}

impl std::ops::Deref for UsagePage {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        // SAFETY: mapped for as long as `self` lives, aligned to a page, and any bits are valid
        // atomics.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for UsagePage {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` has mapped, and `&mut self` shows that nothing else uses it.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE_BYTES as usize) };
    }
}

/// Adds to a counter; order between counters does not matter to a reader.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_in_a_mapped_page_is_read_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = create(&dir.path().join("usage")).unwrap();
        assert_eq!(read(&file).unwrap(), Usage::default());
        let page = UsagePage::map(&file).unwrap();
        add(&page.runs, 2);
        add(&page.bytes_out, 7);
        drop(page);
        assert_eq!(read(&file).unwrap(), Usage { runs: 2, bytes_out: 7, ..Usage::default() });
    }

    #[test]
    fn a_file_that_is_no_page_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(read(&file).is_err());
        assert!(UsagePage::map(&file).is_err());
        file.set_len(PAGE_BYTES).unwrap();
        assert!(read(&file).is_err());
    }
}
