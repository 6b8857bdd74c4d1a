use std::{io, path::PathBuf};

use engine::StartFailure;

/// Why something could not be prepared, started or watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a step.
    #[error("cannot {what}")]
    Os {
        /// What was tried, as in "start a worker".
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of the node could not be read or written.
    #[error("cannot {what} `{}`", .path.display())]
    File {
        /// `read`, `write`, …
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A preparer answered something that no preparer answers.
    #[error("the preparer broke the protocol: {0}")]
    Protocol(String),
    /// A worker of an earlier agent cannot be taken over.
    #[error("the worker cannot be adopted")]
    NotAdopted(#[source] io::Error),
    /// A worker ended before its work was done.
    #[error("the worker ended while {0}")]
    WorkerLost(&'static str),
    /// A worker could not take its assignment.
    #[error("E_WORKER: the worker could not start: {0}")]
    NotStarted(String),
    /// A file or folder of the host that the guest could not use.
    #[error(
        "`{}` belongs to uid {owner}, and uid {} may not use it as it is mounted", .path.display(),
        rustix::process::geteuid().as_raw()
    )]
    HostFiles {
        /// What was to be mounted.
        path: PathBuf,
        /// Its user.
        owner: u32,
        /// What `chmod` would have to add.
        missing: &'static str,
        /// Whether it was to be written.
        writes: bool,
        /// The system's reason.
        source: io::Error,
    },
    /// Something of the host that is neither a file nor a folder.
    #[error("`{}` is neither a file nor a folder, and a guest can be given nothing else", .0.display())]
    NoFile(PathBuf),
    /// More descriptors than one message carries.
    #[error(
        "an assignment of {0} descriptors is more than the {max} that one message carries",
        max = engine::FDS_MAX
    )]
    TooManyDescriptors(usize),
    /// The image cannot be run, and why: a code (`E_…`) and a sentence.
    #[error("{code}: {message}")]
    Refused {
        /// A stable word, as in `E_COMPILE_LIMIT`.
        code: String,
        /// One sentence with the cause.
        message: String,
        /// What to try.
        hint: Option<String>,
    },
    /// A prepared file is not the one that this node sealed.
    #[error("E_SEAL: `{}` is not what this node has written", .0.display())]
    Unsealed(PathBuf),
}

impl Error {
    /// The next step for a user, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } => hint.clone(),
            Self::Unsealed(_) => {
                Some("it is made anew from the image at the next start".to_owned())
            }
            Self::Os { what, source } if what.contains("namespace") => Some(
                match source.raw_os_error() {
                    // The kernel's word for a number of namespaces that is used up, or zero.
                    Some(libc::ENOSPC) => {
                        "allow more: sysctl -w user.max_user_namespaces=15000; or see margay doctor"
                    }
                    _ => "see what this machine allows: margay doctor",
                }
                .to_owned(),
            ),
            Self::TooManyDescriptors(_) => Some("use fewer layers, volumes or ports".to_owned()),
            Self::HostFiles { path, missing, writes, .. } => {
                let (path, read) =
                    (path.display(), if *writes { "mount it with :ro, " } else { "" });
                Some(format!("{read}`chmod {missing} {path}`, or use a volume: -v NAME:/PATH"))
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("the disk is full: make room, for example with margay prune".to_owned())
            }
            Self::NoFile(_)
            | Self::Os { .. }
            | Self::File { .. }
            | Self::Protocol(_)
            | Self::NotAdopted(_) => None,
            // A process that gives everything up before it reads a guest's first byte.
            Self::WorkerLost(_) | Self::NotStarted(_) => {
                Some("see what this machine allows: margay doctor".to_owned())
            }
        }
    }

    /// For the exit code: whether the program is missing, or none.
    pub fn failure(&self) -> StartFailure {
        match self {
            Self::Refused { code, .. } => StartFailure::of_preparer(code),
            _ => StartFailure::Host,
        }
    }

    /// Itself and its causes, in one line.
    pub(crate) fn chain(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |e| e.source());
        causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"))
    }

    pub(crate) fn os(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Os { what, source }
    }

    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
