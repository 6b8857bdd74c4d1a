use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use engine::{VolumeMount, VolumeSource};
use rustix::{
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    process::{Resource, getrlimit},
    thread::UnshareFlags,
};

use crate::limits::{OPEN_FILES_MAX, USER_DATABASE_BYTES_MAX};
use crate::{
    Assignment, Error, Layer, RootAccess,
    bundle::account::{Account, account},
    bundle::config::{self as bundle, Bind, Bundle, Writable},
    bundle::fill::fill,
    bundle::mounts::View,
    bundle::rootfs::RootFolder,
    bundle::strings::check_args,
    bundle::{NAME_SERVER, init, mounts, root},
    host::cgroup,
    ids::HostIds,
};

/// Says which names are known, and which resolver knows others, where there is one.
fn write_names(order: &Assignment, inside: &RootFolder, hostname: &str) -> Result<(), Error> {
    inside
        .write("etc", "hosts", &order.program.settings.hosts_file(hostname))
        .map_err(Error::io("write /etc/hosts"))?;
    if order.grants.outbound.is_empty() {
        return Ok(());
    }
    inside
        .write("etc", "resolv.conf", &format!("nameserver {NAME_SERVER}\n"))
        .map_err(Error::io("write /etc/resolv.conf"))
}

/// A bundle that is ready for the runtime. It exists in this process's own mount namespace only,
/// which its children share and which ends with them: no mount is left behind, whichever process is
/// killed.
pub(crate) struct Stage {
    pub bundle: PathBuf,
    pub account: Account,
}

/// Folders that every system has and that every user may enter, for a file system that only this
/// process sees. Below `MARGAY_HOME` only root may enter, and the runtime opens the root file
/// system as the container's root, which is another user.
const POINTS: [&str; 5] = ["/mnt", "/media", "/srv", "/opt", "/tmp"];

/// Makes the root file system of `order` (its layers, under a writable layer), mounts its volumes
/// beside it, and writes the runtime's config.
pub(crate) fn build(order: &Assignment, id: &str, ids: HostIds) -> Result<Stage, Error> {
    let point = choose_point(order)?;
    let built = build_at(point, order, id, ids);
    if let Err(Error::NoIdMap { .. }) = built {
        // It is tried once more, with other ids.
        let _ = unmount(point, UnmountFlags::DETACH);
    }
    built
}

fn build_at(
    point: &'static Path,
    order: &Assignment,
    id: &str,
    ids: HostIds,
) -> Result<Stage, Error> {
    let program = &order.program;
    check_args(&order.args)?;
    let writable = bundle::writable(&order.grants, &order.volumes)?;
    let view = View::new(ids)?;
    hide_mounts().map_err(Error::io("make a mount namespace"))?;
    root::mount_memory(point, order)?;
    root::mount_root(point, order, &view)?;

    let root_folder = point.join("root");
    let inside = RootFolder::open(&root_folder, ids.root())
        .map_err(Error::io("look into the root file system"))?;
    inside.check_mount_points()?;
    let image = program.config.config.clone().unwrap_or_default();
    let mut account = account(
        image.user.as_deref().unwrap_or(""),
        &inside.text("/etc/passwd", USER_DATABASE_BYTES_MAX)?,
        &inside.text("/etc/group", USER_DATABASE_BYTES_MAX)?,
    )?;
    account.join(&program.settings.groups, &inside.text("/etc/group", USER_DATABASE_BYTES_MAX)?)?;
    let cwd = match image.working_dir.as_deref() {
        None | Some("") => "/".to_owned(),
        Some(path) => inside.folder("WORKDIR", path)?,
    };
    let hostname = program.settings.hostname.clone().unwrap_or(order.container.to_string());
    write_names(order, &inside, &hostname)?;
    if program.root == RootAccess::Writable {
        // Where it is read-only, memory is mounted there.
        inside.make_shared("tmp").map_err(Error::io("make /tmp"))?;
        // Where servers of every distribution put their pid files, and what images of single
        // packages do not bring. One that cannot be made is missed by the program that wants it.
        let _ = inside.folder("folder", "/run");
    }

    let mut binds = writable_folders(&writable, &inside, &root_folder)?;
    mount_volumes(order, point, &inside, &view, &mut binds)?;
    let mut args = order.args.clone();
    if program.settings.init {
        args = init::args(&args);
        binds.push(init::place(point).map_err(Error::io("put the init into the container"))?);
    }
    let config = Bundle {
        env: bundle::env(
            &program.config,
            &order.env,
            account.home.as_deref(),
            &hostname,
            order.stdio.terminal.is_some(),
        )?,
        args,
        cwd,
        account: account.clone(),
        hostname,
        terminal: order.stdio.terminal,
        root: root_folder,
        writable_root: writable.root || program.root == RootAccess::Writable,
        binds,
        // An ordinary user may make none.
        cgroup: (!ids.are_of_namespace()).then(|| id.to_owned()),
        ids,
        limits: order.limits.clone(),
        cpu_millis: program.cpu_millis,
        settings: program.settings.clone(),
        swap_limit: cgroup::counts_swap(),
        open_files_max: settable_open_files(ids),
    };
    let bundle = point.join("bundle");
    let path = bundle.join("config.json");
    fs::write(&path, config.config().to_string())
        .map_err(Error::io(format!("write `{}`", path.display())))?;
    Ok(Stage { bundle, account })
}

/// Folders of a root that is read-only for the rest.
fn writable_folders(
    writable: &Writable,
    inside: &RootFolder,
    root: &Path,
) -> Result<Vec<Bind>, Error> {
    let paths = writable.folders.iter().filter(|path| *path != "/tmp");
    let bind = |path: &String| {
        let to = inside.folder("writable folder", path)?;
        Ok(Bind { from: root.join(&to[1..]), to, writable: true, noexec: false })
    };
    paths.map(bind).collect()
}

/// The root folder of `order` with its volumes, for a process that only looks at files: nothing of
/// its program is there, and what the kernel or memory fills is empty.
pub(crate) fn build_files(order: &Assignment, ids: HostIds) -> Result<OwnedFd, Error> {
    let point = choose_point(order)?;
    let view = View::new(ids)?;
    hide_mounts().map_err(Error::io("make a mount namespace"))?;
    root::mount_memory(point, order)?;
    root::mount_root(point, order, &view)?;
    let root_folder = point.join("root");
    let inside = RootFolder::open(&root_folder, view.ids.root())
        .map_err(Error::io("look into the root file system"))?;
    let mut binds = Vec::new();
    mount_volumes(order, point, &inside, &view, &mut binds)?;
    for bind in &binds {
        mounts::graft(bind, &inside)?;
    }
    if order.program.root == RootAccess::ReadOnly {
        // What it writes there is in memory, and gone when it ends.
        mounts::make_read_only(&root_folder)?;
    }
    inside.into_root().map_err(Error::io("open the root file system"))
}

/// A point that hides nothing that we need.
fn choose_point(order: &Assignment) -> Result<&'static Path, Error> {
    let needed: Vec<&Path> = order
        .program
        .layers
        .iter()
        .map(Layer::folder)
        .chain(order.volumes.iter().filter_map(|volume| mounts::path_of(volume).ok()))
        .chain([order.folder.as_path(), order.program.runtime.path.as_path()])
        .chain(order.log.as_deref())
        .collect();
    let free = |point: &&Path| {
        needed.iter().all(|path| !path.starts_with(point)) && point.is_dir() && !is_link(point)
    };
    POINTS.into_iter().map(Path::new).find(free).ok_or_else(|| Error::Io {
        what: format!("find a folder to mount on among {}", POINTS.join(", ")),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// The hard limit of open files that a runtime can set: in a user namespace it raises none.
fn settable_open_files(ids: HostIds) -> u64 {
    match getrlimit(Resource::Nofile).maximum {
        Some(own) if ids.are_of_namespace() => own.min(OPEN_FILES_MAX),
        _ => OPEN_FILES_MAX,
    }
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_symlink())
}

/// From here on, mounts of the host reach us and ours do not reach the host.
#[expect(
    unsafe_code,
    reason = "rustix marks unsharing unsafe for the sake of programs with threads"
)]
fn hide_mounts() -> rustix::io::Result<()> {
    // SAFETY: this process has one thread, and CLONE_FILES, which could close descriptors under
    // others, is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)
}

fn mount_volumes(
    order: &Assignment,
    point: &Path,
    inside: &RootFolder,
    view: &View,
    binds: &mut Vec<Bind>,
) -> Result<(), Error> {
    for (index, volume) in order.volumes.iter().enumerate() {
        let from = point.join(format!("v/{index}"));
        let mut bind = bundle::bind(volume, &order.grants, from)?;
        fill_volume(volume, inside, view.ids)?;
        mounts::mount(volume, &bind, view)?;
        mounts::keep_flags(&mut bind)?;
        binds.push(bind);
    }
    // What is mounted in another mount comes after it.
    binds.sort_by_key(|bind| bind.to.matches('/').count());
    Ok(())
}

/// A volume in which nothing was ever put begins with what the image has at its path.
fn fill_volume(volume: &VolumeMount, inside: &RootFolder, ids: HostIds) -> Result<(), Error> {
    let VolumeSource::Folder(folder) = &volume.source else { return Ok(()) };
    let filling = || format!("fill the volume at `{}`", volume.path);
    if !mounts::is_empty(folder).map_err(Error::io(filling()))? {
        return Ok(());
    }
    match inside.existing(&volume.path) {
        Some(content) => fill(&content, folder, ids),
        // Of the container's root, as a folder that it had made itself; still open to all.
        None => {
            let (uid, gid) = ids.of_files().root();
            rustix::fs::chown(folder, Some(uid), Some(gid)).map_err(Into::into)
        }
    }
    .map_err(Error::io(filling()))
}
