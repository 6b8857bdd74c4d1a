//! The packages of an image: its layers are read once, each on top of those before, and of their
//! files only those are kept that say what is installed.

use std::{
    collections::BTreeMap,
    io::{self, Read as IoRead},
};

use image::{Budget, EntryKind, LayerContent, LayerReader, Plan};
use spec::Digest;

use super::{
    package::{Distribution, Inventory, Package},
    parse,
};
use crate::limits::{
    LISTED_PACKAGES_MAX, LOCK_FILE_BYTES_MAX, PROGRAM_HEAD_BYTES, SCANNED_FILE_BYTES_MAX,
    SCANNED_FILES_MAX, SCANNED_PROGRAM_BYTES_MAX,
};

/// What one file says.
#[derive(Debug, Clone, Default)]
struct Read {
    packages: Vec<Package>,
    distribution: Option<Distribution>,
    unread: Option<String>,
}

/// How a file is read, by its path or by its first bytes.
#[derive(Debug, Clone, Copy)]
enum Format {
    OsRelease,
    Dpkg,
    Apk,
    RpmSqlite,
    RpmNdb,
    RpmBerkeley,
    List(fn(&[u8]) -> Vec<Package>),
    Program,
    Wasm,
}

/// The packages of an image. `open` gives the bytes of a blob.
pub(crate) fn inventory<R: IoRead>(
    plan: &Plan,
    open: impl Fn(&Digest) -> io::Result<R>,
    mut budget: Budget,
) -> Inventory {
    let (mut files, mut inventory) = (Files::default(), Inventory::default());
    for (number, layer) in plan.layers.iter().enumerate() {
        let digest = &layer.descriptor.digest;
        let read = match layer.content {
            LayerContent::Tar => open(digest)
                .map_err(|error| error.to_string())
                .and_then(|blob| files.read_layer(blob, &mut budget).map_err(|e| e.to_string())),
            LayerContent::Wasm => open(digest)
                .and_then(|blob| files.read_program(blob, &format!("layer {number}")))
                .map_err(|error| error.to_string()),
            LayerContent::File { .. } | LayerContent::Ignored => Ok(()),
        };
        if let Err(error) = read {
            inventory.unread(format!("layer {}: {error}", digest.short()));
        }
    }
    files.into(&mut inventory);
    inventory.settle();
    inventory
}

/// What the layers so far say, by path.
#[derive(Default)]
struct Files {
    found: BTreeMap<Vec<u8>, Read>,
    /// How many packages all files have listed.
    packages: usize,
    is_full: bool,
}

impl Files {
    fn read_layer(&mut self, blob: impl IoRead, budget: &mut Budget) -> Result<(), image::Error> {
        let mut reader = LayerReader::new(blob, *budget)?;
        let mut added = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            match entry.kind {
                EntryKind::Whiteout => self.remove(&entry.path, true),
                EntryKind::Opaque => self.remove(&entry.path, false),
                EntryKind::Directory => {
                    self.found.remove(&entry.path);
                }
                EntryKind::File => {
                    self.remove(&entry.path, true);
                    let read = content(&mut reader, &entry.path, entry.size, entry.mode)?;
                    let read = read.filter(|read| self.admits(read, added.len()));
                    added.extend(read.map(|read| (entry.path, read)));
                }
                // A link hides what was there. What is behind it is found under its own path.
                _ => self.remove(&entry.path, true),
            }
        }
        // What a layer takes away is what is below it, wherever in its tar that is said.
        self.found.extend(added);
        let summary = reader.finish()?;
        budget.bytes_max = budget.bytes_max.saturating_sub(summary.bytes);
        budget.entries_max = budget.entries_max.saturating_sub(summary.entries);
        Ok(())
    }

    /// A layer that is the program itself.
    fn read_program(&mut self, blob: impl IoRead, name: &str) -> io::Result<()> {
        let mut bytes = Vec::new();
        blob.take(SCANNED_PROGRAM_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        let read = match bytes.len() as u64 > SCANNED_PROGRAM_BYTES_MAX {
            true => Read::unread(format!("`{name}` is too large to be read")),
            false => Format::Wasm.read(&bytes, name),
        };
        if self.admits(&read, 0) {
            self.found.insert(name.as_bytes().to_vec(), read);
        }
        Ok(())
    }

    /// Whether one more file is within the limits, while others wait to be added.
    fn admits(&mut self, read: &Read, waiting: usize) -> bool {
        self.packages += read.packages.len();
        let admits =
            self.found.len() + waiting < SCANNED_FILES_MAX && self.packages <= LISTED_PACKAGES_MAX;
        self.is_full |= !admits;
        admits
    }

    /// Forgets what is below a path, and at it.
    fn remove(&mut self, path: &[u8], and_itself: bool) {
        if and_itself {
            self.found.remove(path);
        }
        let below = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let first = |found: &BTreeMap<Vec<u8>, Read>| {
            let (next, _) = found.range(below.clone()..).next()?;
            next.starts_with(&below).then(|| next.clone())
        };
        while let Some(next) = first(&self.found) {
            self.found.remove(&next);
        }
    }

    fn into(self, inventory: &mut Inventory) {
        if self.is_full {
            inventory.unread(format!(
                "more than {SCANNED_FILES_MAX} files, or {LISTED_PACKAGES_MAX} entries of them, say \
                 what is installed"
            ));
        }
        for (_, read) in self.found {
            inventory.packages.extend(read.packages);
            read.unread.into_iter().for_each(|what| inventory.unread(what));
            // `usr/lib/os-release` comes last, and is what `etc/os-release` links to.
            inventory.distribution = read.distribution.or(inventory.distribution.take());
        }
    }
}

impl Read {
    fn unread(what: String) -> Self {
        Self { unread: Some(what), ..Self::default() }
    }
}

/// What a file says, if it says anything.
fn content<R: IoRead>(
    reader: &mut LayerReader<R>,
    path: &[u8],
    size: u64,
    mode: u32,
) -> Result<Option<Read>, image::Error> {
    let Ok(path) = str::from_utf8(path) else { return Ok(None) };
    if let Some(format) = Format::of_path(path) {
        let bytes_max = format.bytes_max();
        if size > bytes_max {
            return Ok(Some(Read::unread(format!("`/{path}` has {size} bytes"))));
        }
        return Ok(Some(format.read(&reader.read_content(bytes_max)?, path)));
    }
    if mode & 0o111 == 0 && !path.ends_with(".wasm") {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = |what: io::Error| image::Error::Read { what: format!("`/{path}`"), source: what };
    reader.content().take(PROGRAM_HEAD_BYTES).read_to_end(&mut bytes).map_err(read)?;
    let format = match &*bytes {
        head if parse::is_elf(head) => Format::Program,
        head if head.starts_with(b"\0asm") => Format::Wasm,
        _ => return Ok(None),
    };
    if size > SCANNED_PROGRAM_BYTES_MAX {
        return Ok(Some(Read::unread(format!("program `/{path}` has {size} bytes"))));
    }
    reader.content().read_to_end(&mut bytes).map_err(read)?;
    Ok(Some(format.read(&bytes, path)).filter(|read| !read.packages.is_empty()))
}

impl Format {
    fn of_path(path: &str) -> Option<Self> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Some(match (folder, name) {
            ("etc" | "usr/lib", "os-release") => Self::OsRelease,
            ("var/lib/dpkg", "status") => Self::Dpkg,
            ("var/lib/dpkg/status.d", name) if !name.ends_with(".md5sums") => Self::Dpkg,
            ("lib/apk/db" | "usr/lib/apk/db", "installed") => Self::Apk,
            ("var/lib/rpm" | "usr/lib/sysimage/rpm", name) => match name {
                "rpmdb.sqlite" => Self::RpmSqlite,
                "Packages.db" => Self::RpmNdb,
                "Packages" => Self::RpmBerkeley,
                _ => return None,
            },
            (_, "Cargo.lock") => Self::List(parse::cargo_lock),
            (_, "package-lock.json" | "npm-shrinkwrap.json" | ".package-lock.json") => {
                Self::List(parse::package_lock)
            }
            (_, "yarn.lock") => Self::List(parse::yarn_lock),
            (_, "pnpm-lock.yaml") => Self::List(parse::pnpm_lock),
            (_, "poetry.lock" | "uv.lock") => Self::List(parse::poetry_lock),
            (_, "requirements.txt") => Self::List(parse::requirements),
            (_, "go.mod") => Self::List(parse::go_mod),
            (folder, "METADATA") if folder.ends_with(".dist-info") => Self::List(parse::metadata),
            (folder, "PKG-INFO") if folder.ends_with(".egg-info") => Self::List(parse::metadata),
            (folder, "package.json") if is_module(folder) => Self::List(parse::installed_module),
            _ => return None,
        })
    }

    fn bytes_max(self) -> u64 {
        match self {
            Self::OsRelease | Self::List(_) => LOCK_FILE_BYTES_MAX,
            _ => SCANNED_FILE_BYTES_MAX,
        }
    }

    fn read(self, bytes: &[u8], path: &str) -> Read {
        let wrong =
            || Read::unread(format!("`/{path}` is damaged, or of a format that is unknown"));
        let listed = |packages: Vec<Package>| Read { packages, ..Read::default() };
        let mut read = match self {
            Self::OsRelease => Read { distribution: parse::os_release(bytes), ..Read::default() },
            Self::Dpkg => listed(parse::dpkg_status(bytes)),
            Self::Apk => listed(parse::apk_installed(bytes)),
            Self::RpmSqlite => parse::rpm_sqlite(bytes).map_or_else(wrong, listed),
            Self::RpmNdb => parse::rpm_ndb(bytes).map_or_else(wrong, listed),
            Self::RpmBerkeley => {
                Read::unread(format!("`/{path}` is a database of Berkeley DB, which is not read"))
            }
            Self::List(parse) => listed(parse(bytes)),
            Self::Program => listed(parse::program(bytes)),
            Self::Wasm => listed(parse::wasm(bytes)),
        };
        for package in &mut read.packages {
            package.path = format!("/{path}");
        }
        read
    }
}

/// Whether a folder is that of an installed module: `node_modules/NAME` or
/// `node_modules/@SCOPE/NAME`.
fn is_module(folder: &str) -> bool {
    let mut parts = folder.rsplit('/');
    let (_, above, over) = (parts.next(), parts.next(), parts.next());
    above == Some("node_modules")
        || (above.is_some_and(|scope| scope.starts_with('@')) && over == Some("node_modules"))
}

#[cfg(test)]
mod tests;
