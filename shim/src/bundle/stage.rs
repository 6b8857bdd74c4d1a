use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Mode, Uid},
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount},
    thread::UnshareFlags,
};

use crate::limits::{
    FIRST_ID, LAYERS_MAX, STAGE_BYTES, USER_DATABASE_BYTES_MAX, WRITABLE_FILES_MAX,
};
use crate::{
    Assignment, Error, Layer,
    assignment::folder_of,
    bundle::account::{Account, account},
    bundle::config::{self as bundle, Bind, Bundle},
    bundle::rootfs::RootFolder,
    host::cgroup,
};

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

/// Makes the root file system of `order` (its layers, under a writable layer in memory that has a
/// limit and counts as the container's memory), mounts its volumes beside it, and writes the
/// runtime's config.
pub(crate) fn build(order: &Assignment, cgroup: &str) -> Result<Stage, Error> {
    let program = &order.program;
    bundle::check_args(&order.args)?;
    let writable = bundle::writable(&order.grants, &order.volumes)?;
    let point = choose_point(order)?;
    hide_mounts().map_err(Error::io("make a mount namespace"))?;
    mount_memory(point, order.limits.writable_bytes_max)?;
    let layers: Vec<_> = program.layers.iter().map(|layer| layer.folder().to_owned()).collect();
    mount_root(point, &layers)?;

    let root = point.join("root");
    let owner = (Uid::from_raw(FIRST_ID), Gid::from_raw(FIRST_ID));
    let inside =
        RootFolder::open(&root, owner).map_err(Error::io("look into the root file system"))?;
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
    inside
        .write("etc", "hosts", &program.settings.hosts_file(&hostname))
        .map_err(Error::io("write /etc/hosts"))?;

    let mut binds = Vec::new();
    for path in writable.folders.iter().filter(|path| *path != "/tmp") {
        let place = inside.folder("writable folder", path)?;
        binds.push(Bind {
            from: root.join(&place[1..]),
            to: place,
            writable: true,
            executable: true,
        });
    }
    for (index, volume) in order.volumes.iter().enumerate() {
        let from = point.join(format!("v/{index}"));
        let bind = bundle::bind(volume, &order.grants, from)?;
        mount_volume(folder_of(volume)?, &bind)?;
        binds.push(bind);
    }
    let config = Bundle {
        env: bundle::env(
            &program.config,
            &order.env,
            account.home.as_deref(),
            order.stdio.terminal.is_some(),
        )?,
        args: order.args.clone(),
        cwd,
        account: account.clone(),
        hostname,
        terminal: order.stdio.terminal,
        root,
        writable_root: writable.root,
        binds,
        low_port: order.listeners.container_ports().any(|port| port < 1024),
        cgroup: cgroup.to_owned(),
        limits: order.limits.clone(),
        cpu_millis: program.cpu_millis,
        settings: program.settings.clone(),
        swap_limit: cgroup::counts_swap(),
    };
    let bundle = point.join("bundle");
    let path = bundle.join("config.json");
    fs::write(&path, config.config().to_string())
        .map_err(Error::io(format!("write `{}`", path.display())))?;
    Ok(Stage { bundle, account })
}

/// A point that hides nothing that we need.
fn choose_point(order: &Assignment) -> Result<&'static Path, Error> {
    let needed: Vec<&Path> = order
        .program
        .layers
        .iter()
        .map(Layer::folder)
        .chain(order.volumes.iter().filter_map(|volume| folder_of(volume).ok()))
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

fn mount_memory(point: &Path, writable_bytes_max: u64) -> Result<(), Error> {
    let making = || format!("mount memory on `{}`", point.display());
    let bytes = writable_bytes_max.saturating_add(STAGE_BYTES);
    let data =
        std::ffi::CString::new(format!("size={bytes},nr_inodes={WRITABLE_FILES_MAX},mode=0755"))
            .map_err(Error::io(making()))?;
    mount("tmpfs", point, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, data.as_c_str())
        .map_err(Error::io(making()))?;
    for name in ["layers", "empty", "up", "work", "root", "v", "bundle"] {
        fs::create_dir(point.join(name)).map_err(Error::io(making()))?;
    }
    // What the container writes, and the root folder itself, belong to the container's root.
    let (uid, gid) = (Uid::from_raw(FIRST_ID), Gid::from_raw(FIRST_ID));
    rustix::fs::chown(point.join("up"), Some(uid), Some(gid)).map_err(Error::io(making()))?;
    rustix::fs::chmod(point.join("bundle"), Mode::RWXU).map_err(Error::io(making()))
}

/// Mount options have one page; links with short names keep a hundred layers within it.
fn mount_root(point: &Path, layers: &[PathBuf]) -> Result<(), Error> {
    if layers.len() > LAYERS_MAX {
        let why = format!("there are {}, and at most {LAYERS_MAX} can be stacked", layers.len());
        return Err(Error::Config { what: "layers".to_owned(), why });
    }
    let mounting = || "mount the root file system".to_owned();
    let mut lower = Vec::new();
    for (index, layer) in layers.iter().enumerate().rev() {
        let name = format!("layers/{index}");
        symlink(layer, point.join(&name)).map_err(Error::io(mounting()))?;
        lower.push(name);
    }
    lower.push("empty".to_owned());
    let data = format!("userxattr,lowerdir={},upperdir=up,workdir=work", lower.join(":"));
    let data = std::ffi::CString::new(data).map_err(Error::io(mounting()))?;
    rustix::process::chdir(point).map_err(Error::io(mounting()))?;
    mount("overlay", "root", "overlay", MountFlags::NOSUID | MountFlags::NODEV, data.as_c_str())
        .map_err(Error::io(mounting()))?;
    rustix::process::chdir("/").map_err(Error::io(mounting()))
}

/// Where the runtime can reach it; with its restrictions from the first moment.
fn mount_volume(folder: &Path, bind: &Bind) -> Result<(), Error> {
    let mounting = || format!("mount the volume `{}`", folder.display());
    fs::create_dir(&bind.from).map_err(Error::io(mounting()))?;
    mount_bind(folder, &bind.from).map_err(Error::io(mounting()))?;
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, !bind.writable);
    flags.set(MountFlags::NOEXEC, !bind.executable);
    mount_remount(&bind.from, flags, c"").map_err(Error::io(mounting()))
}
