use std::{io, path::PathBuf};

use spec::Digest;

/// Why a blob was not read, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the blob `{0}` is missing")]
    Missing(Digest),
    #[error("the bytes are not those of `{expected}` but of `{actual}`")]
    WrongDigest { expected: Digest, actual: Digest },
    #[error("a stored blob cannot be used")]
    Damaged { source: image::Error },
    #[error("the image `{image}` cannot be used")]
    Image { image: Digest, source: image::Error },
    #[error("cannot {action} `{}`", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match &error {
            Error::Missing(_) => Self::new(io::ErrorKind::NotFound, error),
            Error::WrongDigest { .. } | Error::Damaged { .. } | Error::Image { .. } => {
                Self::new(io::ErrorKind::InvalidData, error)
            }
            Error::Io { source, .. } => Self::new(source.kind(), error),
        }
    }
}
