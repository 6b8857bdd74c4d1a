//! The root file system of a container: its layers, under a writable layer on disk or in memory.

use std::{
    ffi::CString,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, chown},
    io::Errno,
    mount::{MountFlags, mount},
};

use spec::Rights;

use crate::limits::{LAYERS_MAX, STAGE_BYTES, WRITABLE_FILES_MAX};
use crate::{Assignment, Error, Layer, RootAccess, bundle::mounts::View, ids::HostIds};

/// The writable layer in a container's folder: `upper` has what it wrote, `work` is overlayfs's.
const WRITABLE: &str = "layer";

/// What a container has written to its root, where that is kept on disk.
pub(crate) fn upper(folder: &Path) -> PathBuf {
    folder.join(WRITABLE).join("upper")
}

/// Memory for what only this process and the runtime see (and for what a container with a read-only
/// root writes), mounted on `point`.
pub(crate) fn mount_memory(point: &Path, order: &Assignment) -> Result<(), Error> {
    let making = || format!("mount memory on `{}`", point.display());
    let writable = match order.program.root {
        RootAccess::Writable => 0,
        RootAccess::ReadOnly => order.limits.writable_bytes_max,
    };
    let bytes = writable.saturating_add(STAGE_BYTES);
    let data = CString::new(format!("size={bytes},nr_inodes={WRITABLE_FILES_MAX},mode=0755"))
        .map_err(Error::io(making()))?;
    mount("tmpfs", point, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, data.as_c_str())
        .map_err(Error::io(making()))?;
    for name in ["layers", "empty", "root", "v", "bundle"] {
        fs::create_dir(point.join(name)).map_err(Error::io(making()))?;
    }
    rustix::fs::chmod(point.join("bundle"), Mode::RWXU).map_err(Error::io(making()))
}

/// Stacks the layers of `order` on `point`/root. Mount options have one page; links with short
/// names keep a hundred layers within it.
pub(crate) fn mount_root(point: &Path, order: &Assignment, view: &View) -> Result<(), Error> {
    let layers = distinct(&order.program.layers);
    if layers.len() > LAYERS_MAX {
        let why = format!("there are {}, and at most {LAYERS_MAX} can be stacked", layers.len());
        return Err(Error::Config { what: "layers".to_owned(), why });
    }
    match order.program.root {
        RootAccess::Writable => {
            let folder = order.folder.join(WRITABLE);
            let making = || format!("make the writable layer `{}`", folder.display());
            make_private(&folder)
                .and_then(|()| make_writable(&folder, view.ids.of_files()))
                .and_then(|()| {
                    symlink("layer/upper", point.join("up"))?;
                    symlink("layer/work", point.join("work"))
                })
                .map_err(Error::io(making()))?;
            show(view, &folder, Rights::READ_WRITE_DELETE, &point.join("layer"))?;
        }
        RootAccess::ReadOnly => {
            make_writable(point, view.ids)
                .and_then(|()| fs::rename(point.join("upper"), point.join("up")))
                .map_err(Error::io("make the writable layer in memory"))?;
        }
    }
    let mounting = || "mount the root file system".to_owned();
    let mut lower = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let name = format!("layers/{index}");
        show(view, layer, Rights::READ, &point.join(&name))?;
        lower.push(name);
    }
    lower.push("empty".to_owned());
    let data = format!("userxattr,lowerdir={},upperdir=up,workdir=work", lower.join(":"));
    let data = CString::new(data).map_err(Error::io(mounting()))?;
    rustix::process::chdir(point).map_err(Error::io(mounting()))?;
    // Set-user-id programs of the image work: their users are those of the container.
    let mounted = mount("overlay", "root", "overlay", MountFlags::NODEV, data.as_c_str());
    rustix::process::chdir("/").map_err(Error::io(mounting()))?;
    match mounted {
        Ok(()) => Ok(()),
        // Linux before 5.19 stacks no folders whose ids are mapped.
        Err(Errno::INVAL | Errno::PERM) if view.ids.are_own() => {
            Err(Error::NoIdMap { path: order.folder.clone() })
        }
        // Linux before 5.11 lets none but root stack folders, and some distributions still do.
        Err(source @ (Errno::PERM | Errno::ACCESS)) if view.ids.are_of_namespace() => {
            Err(Error::NoNamespace { step: "stack layers", source: source.into() })
        }
        Err(Errno::INVAL) if order.program.root == RootAccess::Writable => {
            Err(Error::NoUpper { folder: order.folder.clone() })
        }
        Err(error) => Err(Error::Io { what: mounting(), source: error.into() }),
    }
}

/// Puts the folder `from` at `to`, with the ids of the container.
fn show(view: &View, from: &Path, rights: Rights, to: &Path) -> Result<(), Error> {
    let showing = || format!("mount `{}`", from.display());
    if !view.ids.are_own() {
        return symlink(from, to).map_err(Error::io(showing()));
    }
    fs::create_dir(to).map_err(Error::io(showing()))?;
    view.mount(from, rights, to)
}

/// The folders of layers, the highest first, each once: what a layer brings or hides a second time
/// further below is covered by its first.
fn distinct(layers: &[Layer]) -> Vec<&Path> {
    let mut folders: Vec<&Path> = Vec::new();
    for layer in layers.iter().rev() {
        if !folders.contains(&layer.folder()) {
            folders.push(layer.folder());
        }
    }
    folders
}

fn make_private(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// `upper`, which belongs to the container's root as its root folder, and `work`. Those of an
/// earlier start stay.
fn make_writable(folder: &Path, ids: HostIds) -> io::Result<()> {
    let upper = folder.join("upper");
    match fs::create_dir(&upper) {
        Ok(()) => {
            let (uid, gid) = ids.root();
            chown(&upper, Some(uid), Some(gid))?;
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    make_private(&folder.join("work"))
}
