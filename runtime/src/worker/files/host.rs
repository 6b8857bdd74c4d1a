use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, bindings::clocks::wall_clock::Datetime};

use super::{
    filesystem::{NewTimes, Opening, Stat, Time},
    mounts::{Files, Handle},
    stream::{Reading, StreamFailure, Writing},
    union::now,
};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "files",
        imports: { default: trappable },
        require_store_data_send: true,
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:filesystem/types.descriptor": super::Shared,
            "wasi:filesystem/types.directory-entry-stream": super::Listing,
        },
    });
}

pub use super::mounts::Listing;
use crate::limits::READ_BYTES_MAX;
use bindings::wasi::filesystem::{preopens, types};
pub(crate) use types::ErrorCode;
pub(super) use types::{DescriptorFlags, DescriptorType, OpenFlags};

/// A descriptor's entry in the table. Its streams hold the same handle.
pub type Shared = Arc<Handle>;

/// A store's files, for the time of one call.
pub(crate) struct View<'a> {
    pub table: &'a mut ResourceTable,
    pub files: &'a Arc<Files>,
}

/// Tells the linker what a [`View`] is.
pub(crate) struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = View<'a>;
}

/// Puts these files in place of wasmtime's.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> View<'_>,
) -> wasmtime::Result<()> {
    types::add_to_linker::<T, HasFiles>(linker, view)?;
    preopens::add_to_linker::<T, HasFiles>(linker, view)
}

type Outcome<T> = wasmtime::Result<Result<T, ErrorCode>>;
type Descriptor = Resource<Shared>;

impl View<'_> {
    fn handle(&self, descriptor: &Descriptor) -> wasmtime::Result<Arc<Handle>> {
        Ok(self.table.get(descriptor)?.clone())
    }
}

impl preopens::Host for View<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Descriptor, String)>> {
        let root = self.table.push(Arc::new(self.files.root()))?;
        Ok(vec![(root, "/".to_owned())])
    }
}

impl types::Host for View<'_> {
    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<StreamFailure>().map(|failure| failure.0))
    }
}

impl types::HostDirectoryEntryStream for View<'_> {
    fn read_directory_entry(
        &mut self,
        stream: Resource<Listing>,
    ) -> Outcome<Option<types::DirectoryEntry>> {
        let next = self.files.next_entry(self.table.get_mut(&stream)?);
        Ok(next.map(|entry| entry.map(|(name, type_)| types::DirectoryEntry { type_, name })))
    }

    fn drop(&mut self, stream: Resource<Listing>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl types::HostDescriptor for View<'_> {
    fn read_via_stream(&mut self, this: Descriptor, at: u64) -> Outcome<Resource<DynInputStream>> {
        let handle = self.handle(&this)?;
        if let Err(error) = handle.read_at(at, 0) {
            return Ok(Err(error));
        }
        let stream: DynInputStream = Box::new(Reading { handle, at });
        Ok(Ok(self.table.push(stream)?))
    }

    fn write_via_stream(
        &mut self,
        this: Descriptor,
        at: u64,
    ) -> Outcome<Resource<DynOutputStream>> {
        self.writing(&this, Some(at))
    }

    fn append_via_stream(&mut self, this: Descriptor) -> Outcome<Resource<DynOutputStream>> {
        self.writing(&this, None)
    }

    fn advise(&mut self, _: Descriptor, _: u64, _: u64, _: types::Advice) -> Outcome<()> {
        Ok(Ok(()))
    }

    fn sync_data(&mut self, this: Descriptor) -> Outcome<()> {
        self.sync(this)
    }

    fn sync(&mut self, this: Descriptor) -> Outcome<()> {
        let handle = self.handle(&this)?;
        Ok(handle.sync())
    }

    fn get_flags(&mut self, this: Descriptor) -> Outcome<DescriptorFlags> {
        Ok(Ok(self.handle(&this)?.flags()))
    }

    fn get_type(&mut self, this: Descriptor) -> Outcome<DescriptorType> {
        let handle = self.handle(&this)?;
        Ok(self.files.stat(&handle).map(|stat| stat.kind))
    }

    fn set_size(&mut self, this: Descriptor, size: u64) -> Outcome<()> {
        let handle = self.handle(&this)?;
        Ok(handle.set_len(size))
    }

    fn set_times(
        &mut self,
        this: Descriptor,
        accessed: types::NewTimestamp,
        modified: types::NewTimestamp,
    ) -> Outcome<()> {
        let handle = self.handle(&this)?;
        Ok(self.files.set_times(&handle, times(accessed, modified)))
    }

    fn read(&mut self, this: Descriptor, len: u64, at: u64) -> Outcome<(Vec<u8>, bool)> {
        let handle = self.handle(&this)?;
        let len = len.min(READ_BYTES_MAX) as usize;
        Ok(handle.read_at(at, len).map(|bytes| {
            let ended = bytes.is_empty() && len > 0;
            (bytes.to_vec(), ended)
        }))
    }

    fn write(&mut self, this: Descriptor, bytes: Vec<u8>, at: u64) -> Outcome<u64> {
        let handle = self.handle(&this)?;
        Ok(handle.write_at(Some(at), &bytes).map(|_| bytes.len() as u64))
    }

    fn read_directory(&mut self, this: Descriptor) -> Outcome<Resource<Listing>> {
        let handle = self.handle(&this)?;
        match self.files.list(&handle) {
            Ok(listing) => Ok(Ok(self.table.push(listing)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn create_directory_at(&mut self, this: Descriptor, path: String) -> Outcome<()> {
        let handle = self.handle(&this)?;
        Ok(self.files.make_folder(&handle, &path))
    }

    fn stat(&mut self, this: Descriptor) -> Outcome<types::DescriptorStat> {
        let handle = self.handle(&this)?;
        Ok(self.files.stat(&handle).map(Into::into))
    }

    fn stat_at(
        &mut self,
        this: Descriptor,
        flags: types::PathFlags,
        path: String,
    ) -> Outcome<types::DescriptorStat> {
        let handle = self.handle(&this)?;
        Ok(self.files.stat_at(&handle, &path, follows(flags)).map(Into::into))
    }

    fn set_times_at(
        &mut self,
        this: Descriptor,
        flags: types::PathFlags,
        path: String,
        accessed: types::NewTimestamp,
        modified: types::NewTimestamp,
    ) -> Outcome<()> {
        let handle = self.handle(&this)?;
        let times = times(accessed, modified);
        Ok(self.files.set_times_at(&handle, &path, follows(flags), times))
    }

    fn link_at(
        &mut self,
        this: Descriptor,
        flags: types::PathFlags,
        path: String,
        other: Descriptor,
        new_path: String,
    ) -> Outcome<()> {
        let (from, to) = (self.handle(&this)?, self.handle(&other)?);
        Ok(self.files.link((&from, &path, follows(flags)), (&to, &new_path)))
    }

    fn open_at(
        &mut self,
        this: Descriptor,
        flags: types::PathFlags,
        path: String,
        open: OpenFlags,
        mut rights: DescriptorFlags,
    ) -> Outcome<Descriptor> {
        let handle = self.handle(&this)?;
        if !rights.intersects(DescriptorFlags::READ | DescriptorFlags::WRITE) {
            rights |= DescriptorFlags::READ;
        }
        let opening = Opening { follow: follows(flags), open, flags: rights };
        match self.files.open(&handle, &path, opening) {
            Ok(opened) => Ok(Ok(self.table.push(Arc::new(opened))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn readlink_at(&mut self, this: Descriptor, path: String) -> Outcome<String> {
        let handle = self.handle(&this)?;
        Ok(self.files.read_link(&handle, &path))
    }

    fn remove_directory_at(&mut self, this: Descriptor, path: String) -> Outcome<()> {
        let handle = self.handle(&this)?;
        Ok(self.files.remove_folder(&handle, &path))
    }

    fn rename_at(
        &mut self,
        this: Descriptor,
        path: String,
        other: Descriptor,
        new_path: String,
    ) -> Outcome<()> {
        let (from, to) = (self.handle(&this)?, self.handle(&other)?);
        Ok(self.files.rename((&from, &path), (&to, &new_path)))
    }

    fn symlink_at(&mut self, this: Descriptor, target: String, path: String) -> Outcome<()> {
        let handle = self.handle(&this)?;
        Ok(self.files.make_link(&handle, &target, &path))
    }

    fn unlink_file_at(&mut self, this: Descriptor, path: String) -> Outcome<()> {
        let handle = self.handle(&this)?;
        Ok(self.files.unlink(&handle, &path))
    }

    fn is_same_object(&mut self, this: Descriptor, other: Descriptor) -> wasmtime::Result<bool> {
        let (one, two) = (self.handle(&this)?, self.handle(&other)?);
        let identity = |handle| self.files.stat(handle).map(|stat| stat.identity).ok();
        Ok(identity(&one).is_some_and(|id| Some(id) == identity(&two)))
    }

    fn metadata_hash(&mut self, this: Descriptor) -> Outcome<types::MetadataHashValue> {
        let handle = self.handle(&this)?;
        Ok(self.files.stat(&handle).map(hash))
    }

    fn metadata_hash_at(
        &mut self,
        this: Descriptor,
        flags: types::PathFlags,
        path: String,
    ) -> Outcome<types::MetadataHashValue> {
        let handle = self.handle(&this)?;
        Ok(self.files.stat_at(&handle, &path, follows(flags)).map(hash))
    }

    fn drop(&mut self, this: Descriptor) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl View<'_> {
    fn writing(
        &mut self,
        this: &Descriptor,
        at: Option<u64>,
    ) -> Outcome<Resource<DynOutputStream>> {
        let handle = self.handle(this)?;
        if let Err(error) = handle.write_at(Some(0), &[]) {
            return Ok(Err(error));
        }
        let stream: DynOutputStream = Box::new(Writing { handle, at });
        Ok(Ok(self.table.push(stream)?))
    }
}

fn follows(flags: types::PathFlags) -> bool {
    flags.contains(types::PathFlags::SYMLINK_FOLLOW)
}

fn times(accessed: types::NewTimestamp, modified: types::NewTimestamp) -> NewTimes {
    let time = |new| match new {
        types::NewTimestamp::NoChange => None,
        types::NewTimestamp::Now => Some((now(), 0)),
        types::NewTimestamp::Timestamp(at) => {
            Some((i64::try_from(at.seconds).unwrap_or(i64::MAX), at.nanoseconds.min(999_999_999)))
        }
    };
    NewTimes { accessed: time(accessed), modified: time(modified) }
}

fn told((seconds, nanoseconds): Time) -> Option<Datetime> {
    Some(Datetime { seconds: u64::try_from(seconds).unwrap_or(0), nanoseconds })
}

fn hash(stat: Stat) -> types::MetadataHashValue {
    // Size and time ride along, so that a changed file has another hash.
    let (seconds, nanoseconds) = stat.times.modified;
    types::MetadataHashValue {
        lower: stat.identity,
        upper: stat.size.rotate_left(32)
            ^ seconds.cast_unsigned()
            ^ u64::from(nanoseconds).rotate_left(20),
    }
}

impl From<Stat> for types::DescriptorStat {
    fn from(stat: Stat) -> Self {
        Self {
            type_: stat.kind,
            link_count: stat.links,
            size: stat.size,
            data_access_timestamp: told(stat.times.accessed),
            data_modification_timestamp: told(stat.times.modified),
            status_change_timestamp: told(stat.times.modified),
        }
    }
}
