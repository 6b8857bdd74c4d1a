//! Machine code for a worker that runs: a file that the worker has mapped, to read and to run,
//! before it shut itself in. Only users with access to its container's folder write it; the worker
//! holds it open for reading, and its system calls allow no new machine code as before.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use disk::Survives;
use engine::exec::CodeRange;
use serde::{Deserialize, Serialize};

use crate::{Error, Key, limits::CODE_AREA_BYTES};

const FILE: &str = "exec.code";
const TABLE: &str = "exec.json";
const VERSION: u32 = 1;
/// Ranges begin at multiples of this: the largest page that processors have.
const PAGE_BYTES: u64 = 64 << 10;
/// A line for each program; more do not fit into the area.
const TABLE_BYTES_MAX: u64 = 1 << 20;

/// Which programs lie where.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    version: u32,
    programs: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The seal of the machine code.
    seal: String,
    range: CodeRange,
}

/// Makes an empty area in `folder` in place of an earlier worker's, open for reading.
pub(crate) fn create(folder: &Path) -> Result<File, Error> {
    let (path, table) = (folder.join(FILE), folder.join(TABLE));
    let make = || -> io::Result<File> {
        disk::remove(&table)?;
        disk::remove(&path)?;
        File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        File::open(&path)
    };
    make().map_err(Error::file("make", &path))
}

/// Puts machine code, which `key` has sealed, into the area of `folder`'s worker, where it is not
/// there yet.
///
/// # Errors
/// When it does not fit, or the area cannot be written.
pub(crate) fn place(folder: &Path, code: &File, key: &Key) -> Result<CodeRange, Error> {
    let path = folder.join(FILE);
    let cannot = || Error::file("write", &path);
    let bytes = code.metadata().map_err(cannot())?.len();
    let mut reader = code;
    let seal = reader
        .seek(SeekFrom::Start(0))
        .and_then(|_| key.seal("exec", &mut reader))
        .map_err(cannot())?;
    let area = disk::open(&path, disk::Purpose::Change).map_err(cannot())?;
    // One client at a time; the lock goes with the file.
    rustix::fs::flock(&area, rustix::fs::FlockOperation::LockExclusive)
        .map_err(io::Error::from)
        .map_err(cannot())?;
    let mut table = read_table(folder).map_err(cannot())?;
    if let Some(found) = table.programs.iter().find(|entry| entry.seal == seal) {
        return Ok(found.range);
    }
    let used = table.programs.last().map_or(0, |entry| entry.range.offset + entry.range.bytes);
    let offset = used.next_multiple_of(PAGE_BYTES);
    if offset.saturating_add(bytes) > CODE_AREA_BYTES {
        return Err(Error::Refused {
            code: "E_EXEC_CODE".to_owned(),
            message: format!(
                "the task has room for {} of machine code of other programs, and this one has {}",
                spec::print_bytes(CODE_AREA_BYTES),
                spec::print_bytes(bytes)
            ),
            hint: Some("start the task again: each start has an empty area".to_owned()),
        });
    }
    let range = CodeRange { offset, bytes };
    copy(code, &area, range).map_err(cannot())?;
    table.programs.push(Entry { seal, range });
    let written = serde_json::to_vec(&table)
        .map_err(io::Error::from)
        .and_then(|bytes| disk::write(&folder.join(TABLE), &bytes, Survives::Crash));
    written.map_err(cannot())?;
    Ok(range)
}

fn read_table(folder: &Path) -> io::Result<Table> {
    match disk::read_optional(&folder.join(TABLE), TABLE_BYTES_MAX)? {
        None => Ok(Table { version: VERSION, programs: Vec::new() }),
        Some(bytes) => {
            let table: Table = serde_json::from_slice(&bytes)?;
            match table.version == VERSION {
                true => Ok(table),
                false => Err(io::Error::other("it is of another margay")),
            }
        }
    }
}

fn copy(from: &File, to: &File, range: CodeRange) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut done = 0;
    while done < range.bytes {
        let read = from.read_at(&mut buffer, done)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&buffer[..read], range.offset + done)?;
        done += read as u64;
    }
    Ok(())
}
