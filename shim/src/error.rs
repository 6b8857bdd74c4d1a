use std::{
    io,
    path::{Path, PathBuf},
};

use engine::{StartFailure, subordinate_ids::Lacking};

/// Why a native container cannot run, or cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No OCI runtime is installed.
    #[error(
        "no OCI runtime is installed: none of `crun`, `runc`, `youki` is on the PATH, and native images need one"
    )]
    NoRuntime,
    /// The OCI runtime is installed and does not work.
    #[error("the OCI runtime `{runtime}` {what}")]
    Runtime {
        /// Its path.
        runtime: String,
        /// What it did and printed, as a predicate.
        what: String,
    },
    /// The OCI runtime refused to start this container.
    #[error("cannot start `{program}`: {why}")]
    Start {
        /// The program in the container.
        program: String,
        /// The last error in the runtime's log.
        why: String,
        /// The warning about the runtime, when it is not current.
        outdated: Option<String>,
    },
    /// An ordinary user has no ids for the users of an image.
    #[error("native images need users of their own, or root: {0}")]
    NoIds(Lacking),
    /// An ordinary user may not make what a container takes.
    #[error("this machine lets no ordinary user {step}, as native images need")]
    NoNamespace { step: &'static str, source: io::Error },
    /// Root that may not do what native images need.
    #[error(
        "native images need all rights of root, and this one has no {capability}, as in a container"
    )]
    Restricted { capability: &'static str },
    /// A device node of the host.
    #[error("`{}` is a device, and no device of this machine enters a container", .path.display())]
    Device { path: PathBuf },
    /// A grant that Linux offers no means to enforce.
    #[error("a native container cannot be granted `{grant}`: {why}")]
    CannotGrant {
        /// The capability line, or the part of the assignment.
        grant: String,
        why: &'static str,
    },
    /// A program cannot run as this user.
    #[error("user `{user}` cannot be used: {why}")]
    User { user: String, why: String },
    /// A limit of each process that this machine does not let us set.
    #[error("ulimit `{name}` cannot be set: this machine lets margay set {most} at most")]
    Ulimit { name: String, most: u64 },
    /// The image's config asks for something that is refused.
    #[error("the image's {what} cannot be used: {why}")]
    Config {
        /// The part of the config, such as `WORKDIR` and its value.
        what: String,
        why: String,
    },
    /// The writable layer of a container cannot be where its folder is.
    #[error(
        "`{}` is on a file system that cannot hold the writable layer of a container", .folder.display()
    )]
    NoUpper {
        /// The container's folder.
        folder: PathBuf,
    },
    /// Files that cannot be shown with other ids than they have on disk.
    #[error("the files of `{}` cannot be shown with the users of one container", .path.display())]
    NoIdMap { path: PathBuf },
    /// The same, while containers of another owner have the users of the disk.
    #[error(
        "a container of `{owner}` runs, and the files of `{}` cannot be shown with users of another", .path.display()
    )]
    Shared { path: PathBuf, owner: String },
    /// An ordinary user's containers of two owners would have the same users.
    #[error(
        "a container of `{owner}` runs, and an ordinary user's containers all have the same users"
    )]
    OneOwner { owner: String },
    /// A file or folder of the host that the container could not use.
    #[error(
        "`{}` belongs to uid {owner}, is not open to uid {user}, as which the container runs, and is on a file system that cannot show it to that user", .path.display()
    )]
    HostFiles { path: PathBuf, owner: u32, user: u32, missing: &'static str },
    /// The same where containers are of an ordinary user.
    #[error(
        "`{}` {}, and so not {} a container that you start", .path.display(),
        if *.readable { "may not be written by you" } else { "is not open to you" },
        if *.readable { "by" } else { "to" }
    )]
    ClosedFiles { path: PathBuf, missing: &'static str, readable: bool },
    /// There is no way out of a container's network, and it was granted connections.
    #[error("cannot connect the network of the container to what it was granted")]
    NoWayOut(#[source] io::Error),
    /// A layer that is broken or hostile.
    #[error("cannot unpack layer `{layer}`: {code}: {why}")]
    Layer {
        /// The layer's diffID.
        layer: String,
        /// The code of what is wrong, such as `E_LAYER_PATH`.
        code: String,
        why: String,
    },
    /// Something on this machine failed.
    #[error("cannot {what}")]
    Io {
        /// The attempted operation, with the path.
        what: String,
        source: io::Error,
    },
    /// The shim or its supervisor broke the protocol between them.
    #[error("the task shim broke its protocol: {0}")]
    Protocol(String),
    /// The shim ended before it reported that its container runs.
    #[error("the task shim in `{}` ended without a reply", .folder.display())]
    ShimLost {
        /// The container's folder.
        folder: PathBuf,
    },
    /// The shim reported this.
    #[error("{message}")]
    Reported {
        /// As [`Error::code`] gave it there.
        code: String,
        /// Its message.
        message: String,
        /// Its hint.
        hint: Option<String>,
        failure: StartFailure,
    },
}

fn hint_of_closed(path: &Path, missing: &str, readable: bool) -> String {
    let path = path.display();
    match readable {
        true => format!(
            "mount it to be read: -v {path}:/PATH:ro, or let its owner open it: `chmod {missing} {path}`"
        ),
        false => format!(
            "let its owner open it, and the folders above it: `chmod {missing} {path}`, or use a \
             volume: -v NAME:/PATH"
        ),
    }
}

/// What a container asked for that an OCI runtime cannot do, by its words, and what to do.
const COMPLAINTS: [(&str, &str, &str); 2] = [
    (
        "error mounting",
        "read-only file system",
        "make that folder first in what is mounted above it, or mount that without :ro",
    ),
    ("too many open files", "", "give it more of them: --ulimit nofile=NUMBER"),
];

fn hint_of_complaint(why: &str) -> Option<&'static str> {
    let found = COMPLAINTS.iter().find(|(one, other, _)| why.contains(one) && why.contains(other));
    found.map(|(_, _, hint)| *hint)
}

impl Error {
    /// A stable word for programs and logs.
    pub fn code(&self) -> &str {
        match self {
            Self::NoRuntime | Self::Runtime { .. } => "E_RUNTIME",
            Self::Start { .. } => "E_START",
            Self::NoIds(_) | Self::NoNamespace { .. } | Self::Restricted { .. } => "E_NOT_ROOT",
            Self::CannotGrant { .. } | Self::NoWayOut(_) => "E_CAP_NATIVE",
            Self::Config { .. } | Self::User { .. } | Self::Ulimit { .. } => "E_CONFIG",
            Self::NoUpper { .. } => "E_NO_UPPER",
            Self::NoIdMap { .. } | Self::Shared { .. } | Self::OneOwner { .. } => "E_ID_MAP",
            Self::HostFiles { .. } | Self::ClosedFiles { .. } | Self::Device { .. } => {
                "E_HOST_FILES"
            }
            Self::Layer { code, .. } | Self::Reported { code, .. } => code,
            Self::Io { .. } => "E_IO",
            Self::Protocol(_) => "E_PROTOCOL",
            Self::ShimLost { .. } => "E_SHIM_LOST",
        }
    }

    /// What to try next, where something is known to help.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoRuntime => "install one: `apt-get install runc`, or crun 1.28 or newer",
            Self::Runtime { .. } => {
                "see `margay doctor` for the versions that work, and install one of them"
            }
            Self::NoIds(why) => return Some(why.hint()),
            Self::NoNamespace { .. } => {
                "start Linux 5.11 or newer; on Ubuntu `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; elsewhere see that `sysctl user.max_user_namespaces` is not 0; inside a container: let it see all of /proc, as by podman's `--security-opt unmask=ALL`"
            }
            Self::Restricted { .. } => {
                "start the container around margay with `--privileged`, or build the image for `wasi/wasm`"
            }
            Self::Device { .. } => {
                "a container has /dev/null, /dev/zero, /dev/full, /dev/random and /dev/tty of its own; to hide a file, mount an empty one"
            }
            Self::CannotGrant { grant, .. } if grant.starts_with("fs:") => {
                "mount it at another path, or take the line out of the role"
            }
            Self::NoWayOut(_) => {
                "load the kernel's module for pairs of devices: `modprobe veth`; or take the lines `net.out` out of the role"
            }
            Self::CannotGrant { .. } => {
                "take the line out of the role, or build the image for `wasi/wasm`"
            }
            Self::Layer { .. } => "the image is broken or hostile: build or pull it again",
            Self::NoUpper { .. } => {
                "put MARGAY_HOME on ext4, xfs, btrfs or tmpfs (inside a container: on a volume), or use `--read-only`"
            }
            Self::NoIdMap { .. } | Self::Shared { .. } => {
                "start Linux 5.19 or newer, and keep MARGAY_HOME and volumes on ext4, xfs, btrfs or tmpfs: `margay doctor` tells more"
            }
            Self::OneOwner { .. } => {
                "wait until it has ended, or run the node of several tenants as root"
            }
            Self::HostFiles { path, user, missing, .. } => {
                let path = path.display();
                return Some(format!(
                    "`chown {user} {path}`, or `chmod {missing} {path}`, or use a volume: -v NAME:/PATH"
                ));
            }
            Self::ClosedFiles { path, missing, readable } => {
                return Some(hint_of_closed(path, missing, *readable));
            }
            Self::ShimLost { .. } => "read `shim.log` in that folder",
            Self::Reported { hint, .. } => return hint.clone(),
            Self::Start { why, .. } if hint_of_complaint(why).is_some() => {
                return hint_of_complaint(why).map(str::to_owned);
            }
            // A missing program is not the runtime's fault.
            Self::Start { outdated: Some(outdated), .. } if self.exit_code() == 125 => {
                return Some(format!("{outdated}: install a newer one and try again"));
            }
            Self::User { .. } => {
                "use a number, as in `-u 1000:1000`, or the image's own: `-u root`"
            }
            Self::Start { .. } => return self.failure().hint().map(str::to_owned),
            Self::Ulimit { name, most } => {
                return Some(format!("ask for less: --ulimit {name}={most}"));
            }
            Self::Config { .. } | Self::Io { .. } | Self::Protocol(_) => {
                return None;
            }
        };
        Some(text.to_owned())
    }

    /// What a command that runs containers exits with, in Docker's convention.
    pub fn exit_code(&self) -> u8 {
        self.failure().exit_code()
    }

    pub fn failure(&self) -> StartFailure {
        match self {
            Self::Start { why, .. } => StartFailure::of_runtime(why),
            Self::Reported { failure, .. } => *failure,
            _ => StartFailure::Host,
        }
    }

    /// For `map_err`: attaches the attempted operation.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
    }

    pub(crate) fn protocol(why: impl Into<String>) -> Self {
        Self::Protocol(why.into())
    }

    /// Itself and its causes, in one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text
    }
}
