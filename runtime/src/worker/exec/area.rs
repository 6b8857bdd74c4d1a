use std::{
    fs::File,
    io,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

use engine::exec::CodeRange;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect};
use wasmtime::CustomCodeMemory;

use crate::limits::CODE_AREA_BYTES;

/// Where machine code becomes executable: as ever before this process shut itself in, and in the
/// area of [`code_area`](crate::code_area) from then on.
#[derive(Debug, Default)]
pub(crate) struct CodeMemory(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// Address of the area.
    area: usize,
    /// What is being loaded from it: address and length.
    loading: (usize, usize),
}

/// The area as this process sees it: readable, executable, and never writable.
#[derive(Debug)]
pub(crate) struct CodeArea {
    file: File,
    at: usize,
    memory: Arc<CodeMemory>,
}

impl CodeArea {
    /// Maps the area in `file`, which grows while it is mapped.
    pub fn map(file: File, memory: Arc<CodeMemory>) -> io::Result<Self> {
        let bytes = usize::try_from(CODE_AREA_BYTES).map_err(io::Error::other)?;
        let (rights, flags) = (ProtFlags::READ | ProtFlags::EXEC, MapFlags::SHARED);
        // SAFETY: a fresh mapping. What is read of it was written before its range was told, and is
        // not written again.
        let at = unsafe { mmap(std::ptr::null_mut(), bytes, rights, flags, file.as_fd(), 0)? };
        let at = at as usize;
        memory.places().area = at;
        Ok(Self { file, at, memory })
    }

    /// The bytes of `range`, while `load` makes a program of them.
    ///
    /// # Errors
    /// When the area has no such range.
    pub fn load<T>(
        &self,
        range: CodeRange,
        load: impl FnOnce(NonNull<[u8]>) -> Result<T, String>,
    ) -> Result<T, String> {
        let written = rustix::fs::fstat(&self.file).map_err(|error| error.to_string())?.st_size;
        let written = written.unsigned_abs().min(CODE_AREA_BYTES);
        let fits = range.offset.checked_add(range.bytes).is_some_and(|end| end <= written);
        if !fits || range.bytes == 0 || !range.offset.is_multiple_of(page_bytes() as u64) {
            return Err("there is no machine code at that place".to_owned());
        }
        let (at, bytes) = (self.at + range.offset as usize, range.bytes as usize);
        let start = NonNull::new(at as *mut u8).ok_or("there is no code area")?;
        self.memory.places().loading = (at, bytes);
        let loaded = load(NonNull::slice_from_raw_parts(start, bytes));
        self.memory.places().loading = (0, 0);
        loaded
    }
}

impl CodeMemory {
    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CustomCodeMemory for CodeMemory {
    fn required_alignment(&self) -> usize {
        page_bytes()
    }

    fn publish_executable(&self, code: *const u8, bytes: usize) -> wasmtime::Result<()> {
        let Places { area, loading } = *self.places();
        let at = code as usize;
        if area == 0 || at < area || at - area >= CODE_AREA_BYTES as usize {
            // SAFETY: wasmtime's own memory, which it hands over for this.
            unsafe { mprotect(code as *mut _, bytes, MprotectFlags::READ | MprotectFlags::EXEC)? };
            return Ok(());
        }
        // It is executable already, and so is what surrounds it: tables and the program's data.
        let (first, after) = (loading.0, (loading.0 + loading.1).next_multiple_of(page_bytes()));
        for (from, to) in [(first, at), (at + bytes, after)] {
            if from < to {
                // SAFETY: pages of the range that is being loaded, which are read only.
                unsafe { mprotect(from as *mut _, to - from, MprotectFlags::READ)? };
            }
        }
        Ok(())
    }

    fn unpublish_executable(&self, code: *const u8, bytes: usize) -> wasmtime::Result<()> {
        // SAFETY: memory that was published, and whose code runs no more.
        unsafe { mprotect(code as *mut _, bytes, MprotectFlags::READ)? };
        Ok(())
    }
}

fn page_bytes() -> usize {
    // SAFETY: asks the C library for a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
