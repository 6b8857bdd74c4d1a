//! Opening files that a process keeps its state in: each is a regular file, so that none keeps its
//! reader waiting as a pipe would, sets off a device, or never ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// What is to be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its bytes are read.
    Read,
    /// A file that is there is read and changed.
    Change,
    /// It is read and changed, and made with mode 0600 when it is missing.
    Keep,
    /// Its bytes are read and others appended; it is made with mode 0600 when it is missing.
    Append,
}

/// Opens a file of ours. It may be reached by a link: folders of state are their owner's alone.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when it is another kind of file; it is not waited for.
pub fn open(path: &Path, purpose: Purpose) -> io::Result<File> {
    regular(path, purpose, OFlags::empty())
}

/// Opens a file in a folder that another user can change: one that lies there, not one that it
/// leads to, and nothing that an open waits for.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when it is another kind of file, or has a second name.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let file = regular(path, Purpose::Read, OFlags::NOFOLLOW)?;
    match file.metadata()?.nlink() {
        1 => Ok(file),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it has a second name")),
    }
}

fn regular(path: &Path, purpose: Purpose, flags: OFlags) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600);
    match purpose {
        Purpose::Read => &mut options,
        Purpose::Change => options.write(true),
        Purpose::Keep => options.write(true).create(true).truncate(false),
        Purpose::Append => options.append(true).create(true),
    };
    // Regular files do not know the first, and a terminal is not made ours.
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

/// The bytes of a file; `None` when there is none.
///
/// # Errors
/// As [`read`], except when there is no file.
pub fn read_optional(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    match read(path, bytes_max) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The bytes of a file that [`open`] opens.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] when it has more than `bytes_max`, or when it cannot be read.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    whole(&open(path, Purpose::Read)?, bytes_max)
}

/// The bytes of what a user named, which may be a pipe as well.
///
/// # Errors
/// As [`read`].
pub fn read_stream(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    whole(&File::open(path)?, bytes_max)
}

/// The bytes of a file that [`open_plain`] opens, if there is one.
///
/// # Errors
/// Those of [`open_plain`], and [`io::ErrorKind::FileTooLarge`] when it has more than `bytes_max`.
pub fn read_plain(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    match open_plain(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => whole(&opened?, bytes_max).map(Some),
    }
}

fn whole(file: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {bytes_max} bytes"),
        )),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn reading_has_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(read(&path, 3).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read_optional(&path, 3).unwrap(), None);
        fs::write(&path, b"cats").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"cats");
        assert_eq!(read_stream(&path, 4).unwrap(), b"cats");
        assert_eq!(read_optional(&path, 4).unwrap().unwrap(), b"cats");
        for read in [read, read_stream] {
            assert_eq!(read(&path, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        }
    }

    /// Without `O_NONBLOCK` the opening of a pipe would wait here for ever.
    #[test]
    fn only_regular_files_are_opened_and_no_other_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "f").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        fs::create_dir(path("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let purposes = [Purpose::Read, Purpose::Change, Purpose::Keep, Purpose::Append];
        for purpose in purposes {
            let made = matches!(purpose, Purpose::Keep | Purpose::Append);
            for (name, want) in [
                ("file", true),
                ("link", true),
                ("pipe", false),
                ("folder", false),
                ("socket", false),
                ("absent", made),
            ] {
                assert_eq!(open(&path(name), purpose).is_ok(), want, "{purpose:?} {name}");
            }
            let made_one = fs::remove_file(path("absent")).is_ok();
            assert_eq!(made_one, made, "{purpose:?}");
        }
        for device in ["/dev/null", "/dev/zero"] {
            assert!(open(Path::new(device), Purpose::Read).is_err(), "{device}");
        }
    }

    #[test]
    fn a_file_of_a_server_leads_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("password"), "p").unwrap();
        fs::write(path("other"), "secret").unwrap();
        std::os::unix::fs::symlink(path("other"), path("link")).unwrap();
        fs::hard_link(path("other"), path("second")).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        fs::create_dir(path("folder")).unwrap();
        for (name, want) in [
            ("password", true),
            ("link", false),
            ("second", false),
            ("pipe", false),
            ("folder", false),
            ("absent", false),
        ] {
            assert_eq!(open_plain(&path(name)).is_ok(), want, "{name}");
        }
        assert_eq!(read_plain(&path("absent"), 1).unwrap(), None);
        assert_eq!(read_plain(&path("password"), 1).unwrap().unwrap(), b"p");
        assert!(read_plain(&path("password"), 0).is_err());
    }
}
