use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstat, mkdirat,
        openat2, unlinkat,
    },
    io::Errno,
};

use crate::Error;

/// A container's root file system, before its program exists: nothing changes in it meanwhile.
pub(crate) struct RootFolder {
    root: OwnedFd,
    host_path: PathBuf,
    /// Of folders and files that are made in it.
    owner: (Uid, Gid),
}

/// Links resolve as the program will see them: `/` is the container's root, and nothing leads out.
const ROOTED: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const STRICT: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// One step down; a link there is opened itself.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
/// Folders that the kernel fills: no program may start in them, and no volume covers them.
const KERNEL_FOLDERS: [&str; 3] = ["/proc", "/sys", "/dev"];

impl RootFolder {
    /// Opens `root`, an absolute path.
    pub(crate) fn open(root: &Path, owner: (Uid, Gid)) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(rustix::fs::CWD, root, flags, Mode::empty())?;
        Ok(Self { host_path: shown_path(fd.as_fd())?, root: fd, owner })
    }

    /// Refuses a root in which the kernel's folders, or `/tmp`, are anything but folders. A runtime
    /// mounts there, and what it follows a link to is what escapes were made of.
    ///
    /// # Errors
    /// [`Error::Config`] names the first.
    pub(crate) fn check_mount_points(&self) -> Result<(), Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for path in KERNEL_FOLDERS.iter().chain(&["/tmp"]) {
            let wrong = |why: String| Error::Config { what: format!("folder `{path}`"), why };
            let why = match openat2(&self.root, &path[1..], flags, Mode::empty(), BENEATH) {
                Err(Errno::NOENT) => continue, // made for it
                Err(error) => error.to_string(),
                Ok(fd) => {
                    let stat = fstat(&fd).map_err(|error| wrong(error.to_string()))?;
                    match FileType::from_raw_mode(stat.st_mode) {
                        FileType::Directory => continue,
                        FileType::Symlink => "the image has a link in its place".to_owned(),
                        _ => "the image has something else in its place".to_owned(),
                    }
                }
            };
            return Err(wrong(why));
        }
        Ok(())
    }

    /// The content of a small text file, or nothing when there is none.
    ///
    /// # Errors
    /// [`Error::Config`] when it is no file, not UTF-8, or longer than `bytes_max`.
    pub(crate) fn text(&self, path: &str, bytes_max: u64) -> Result<String, Error> {
        let wrong = |why: String| Error::Config { what: format!("file `{path}`"), why };
        // NONBLOCK: opening a pipe without a writer would block for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match openat2(&self.root, path, flags, Mode::empty(), ROOTED) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let stat = fstat(&fd).map_err(|error| wrong(error.to_string()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(wrong("it is no regular file".to_owned()));
        }
        let mut text = String::new();
        let read = File::from(fd).take(bytes_max + 1).read_to_string(&mut text);
        match read {
            Ok(n) if n as u64 <= bytes_max => Ok(text),
            Ok(_) => Err(wrong(format!("it is longer than {bytes_max} bytes"))),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Resolves `path` as the program will see it, and makes it when it is not there. Refuses paths
    /// into the kernel's folders, also through links.
    ///
    /// # Errors
    /// [`Error::Config`] with `what`.
    pub(crate) fn folder(&self, what: &str, path: &str) -> Result<String, Error> {
        let wrong =
            |why: String| Error::Config { what: format!("{what} `{}`", path.escape_debug()), why };
        let normal = path.starts_with('/')
            && !path.contains('\0')
            && !path.split('/').any(|part| part == "..");
        if !normal {
            return Err(wrong("it is not an absolute path without `..`".to_owned()));
        }
        refuse_kernel_folders(path).map_err(wrong)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match openat2(&self.root, path, flags, Mode::empty(), ROOTED) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => self.make(path).map_err(|error| match error {
                Errno::LOOP => {
                    wrong("it leads through a link to something that is not there".to_owned())
                }
                other => wrong(other.to_string()),
            })?,
            Err(Errno::NOTDIR) => return Err(wrong("it is no folder".to_owned())),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let resolved = self.path_of(fd.as_fd()).map_err(|error| wrong(error.to_string()))?;
        refuse_kernel_folders(&resolved).map_err(wrong)?;
        Ok(resolved)
    }

    /// The folder at `path`, as the program will see it, when there is one.
    pub(crate) fn existing(&self, path: &str) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(&self.root, path, flags, Mode::empty(), ROOTED).ok()
    }

    /// The file at `path`, likewise.
    pub(crate) fn existing_file(&self, path: &str) -> Option<OwnedFd> {
        openat2(&self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ROOTED).ok()
    }

    /// The root folder itself.
    pub(crate) fn into_root(self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat2(&self.root, ".", flags, Mode::empty(), STRICT)?)
    }

    /// Opens the folder `name` in the root folder to all users, as `/tmp` is on every system; makes
    /// it where there is nothing yet. One of an image may have lost that in its build. A link stays
    /// what it is.
    pub(crate) fn make_shared(&self, name: &str) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat2(&self.root, ".", flags, Mode::empty(), STRICT)?;
        let made = match mkdirat(&root, name, Mode::RWXU) {
            Err(Errno::EXIST) => false,
            made => made.map(|()| true)?,
        };
        let folder = match openat2(&root, name, flags, Mode::empty(), STRICT) {
            Err(Errno::LOOP | Errno::NOTDIR) => return Ok(()),
            folder => folder?,
        };
        if made {
            fchown(&folder, Some(self.owner.0), Some(self.owner.1))?;
        }
        let shared = Mode::from_raw_mode(0o1777);
        match Mode::from_raw_mode(fstat(&folder)?.st_mode) == shared {
            true => Ok(()),
            false => Ok(fchmod(&folder, shared)?),
        }
    }

    /// Writes a file in place of the image's own. Nothing is written where a folder has its name,
    /// or where `folder` is absent or a link.
    pub(crate) fn write(&self, folder: &str, name: &str, text: &str) -> io::Result<()> {
        let folder = match openat2(
            &self.root,
            folder,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            STRICT,
        ) {
            Ok(fd) => fd,
            Err(_) => return Ok(()),
        };
        // The layers keep theirs: this changes the container's own writable layer.
        let _ = unlinkat(&folder, name, AtFlags::empty());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o644)) {
            Ok(fd) => fd,
            Err(_) => return Ok(()),
        };
        fchown(&file, Some(self.owner.0), Some(self.owner.1))?;
        io::Write::write_all(&mut File::from(file), text.as_bytes())
    }

    fn make(&self, path: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = openat2(&self.root, ".", flags, Mode::empty(), STRICT)?;
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            let made = match mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error),
            };
            at = openat2(&at, part, flags, Mode::empty(), STRICT)?;
            if made {
                fchown(&at, Some(self.owner.0), Some(self.owner.1))?;
            }
        }
        Ok(at)
    }

    fn path_of(&self, fd: BorrowedFd<'_>) -> io::Result<String> {
        let host = shown_path(fd)?;
        let inner = host.strip_prefix(&self.host_path).map_err(io::Error::other)?;
        let inner = inner.to_str().ok_or_else(|| io::Error::other("its name is not UTF-8"))?;
        Ok(format!("/{inner}"))
    }
}

fn refuse_kernel_folders(path: &str) -> Result<(), String> {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    match KERNEL_FOLDERS.iter().find(|folder| parts.first() == Some(&&folder[1..])) {
        Some(folder) => Err(format!("it is in `{folder}`, which belongs to the kernel")),
        None => Ok(()),
    }
}

fn shown_path(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root_folder(root: &Path) -> RootFolder {
        RootFolder::open(root, (rustix::process::getuid(), rustix::process::getgid())).unwrap()
    }

    #[test]
    fn a_working_folder_is_resolved_as_the_program_sees_it_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("srv/www")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        for (link, target) in [
            ("absolute", "/srv/www"),
            ("above", "../../../../srv"),
            ("fd", "/proc/self/fd/7"),
            ("dangling", "/nowhere"),
            ("loop", "loop"),
            ("to-proc", "/proc"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        std::fs::create_dir_all(root.join("proc")).unwrap();
        for (path, want) in [
            ("/", "/"),
            ("/srv/www/", "/srv/www"),
            ("/srv//./www", "/srv/www"),
            ("/absolute", "/srv/www"),
            ("/above/www", "/srv/www"),
            ("/new/and/deep", "/new/and/deep"),
            ("/absolute/new", "error"),
            ("srv", "not an absolute path"),
            ("", "not an absolute path"),
            ("/srv/../../etc", "not an absolute path"),
            ("/srv\0", "not an absolute path"),
            ("/proc/self/fd/7", "belongs to the kernel"),
            ("//./proc/self", "belongs to the kernel"),
            ("/sys", "belongs to the kernel"),
            ("/dev/shm", "belongs to the kernel"),
            ("/to-proc", "belongs to the kernel"),
            ("/fd", "not there"),
            ("/dangling", "not there"),
            ("/loop", "Too many"),
            ("/file", "no folder"),
            ("/file/x", "no folder"),
        ] {
            let got = root_folder(root).folder("WORKDIR", path);
            match got {
                Ok(got) => assert_eq!(got, want, "{path}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(want == "error" || text.contains(want), "{path}: {text}");
                }
            }
        }
        assert!(!Path::new("/new").exists() && !root.join("nowhere").exists());
    }

    #[test]
    fn a_root_whose_mount_points_are_no_folders_is_refused() {
        for name in ["dev", "proc", "sys", "tmp"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            let check = || root_folder(folder.path()).check_mount_points();
            check().unwrap(); // none of them is there: they are made
            std::fs::create_dir(&path).unwrap();
            check().unwrap();
            std::fs::remove_dir(&path).unwrap();
            for target in ["/etc", "etc", "/nowhere", name] {
                symlink(target, &path).unwrap();
                let error = check().unwrap_err().to_string();
                assert!(error.contains(&format!("`/{name}`")) && error.contains("link"), "{error}");
                std::fs::remove_file(&path).unwrap();
            }
            std::fs::write(&path, "").unwrap();
            assert!(check().unwrap_err().to_string().contains("something else"), "{name}");
        }
    }

    #[test]
    fn tmp_is_open_to_all_users_and_a_link_is_left_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("root/kept")).unwrap();
        let root = folder.path().join("root");
        let mode = |path: &str| root.join(path).metadata().unwrap().permissions().mode() & 0o7777;
        std::fs::set_permissions(root.join("kept"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink("../root/kept", root.join("link")).unwrap();
        for (name, path, want) in
            [("new", "new", 0o1777), ("link", "kept", 0o755), ("kept", "kept", 0o1777)]
        {
            root_folder(&root).make_shared(name).unwrap();
            assert_eq!(mode(path), want, "{name}");
        }
    }

    #[test]
    fn a_text_is_read_inside_only_and_within_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(folder.path().join("secret"), "host").unwrap();
        symlink("../../secret", root.join("etc/passwd")).unwrap();
        std::fs::write(root.join("secret"), "container").unwrap();
        let inside = root_folder(&root);
        assert_eq!(inside.text("/etc/passwd", 100).unwrap(), "container", "a link cannot leave");
        assert_eq!(inside.text("/etc/none", 100).unwrap(), "");
        assert!(inside.text("/secret", 8).unwrap_err().to_string().contains("longer than 8"));
        assert!(inside.text("/etc", 8).unwrap_err().to_string().contains("no regular file"));
        let pipe = root.join("etc/group");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(inside.text("/etc/group", 8).unwrap_err().to_string().contains("no regular file"));
    }
}
