use crate::{
    diagnostic::{Diagnostic, DiagnosticKind, ExpansionError, Place},
    error::Error,
};

/// Why an instruction failed, before its place is known.
#[derive(Debug)]
pub(crate) enum Fault {
    Kind { place: Option<Place>, kind: DiagnosticKind },
    Error(Error),
}

impl Fault {
    /// The same in `file`.
    pub(crate) fn in_file(self, file: &str) -> Error {
        match self {
            Self::Error(error) => error,
            Self::Kind { place, kind } => {
                let file = file.to_owned();
                Error::BuildFile(Diagnostic { file, place, kind })
            }
        }
    }

    /// The same at `place`, unless it has a place of its own.
    pub(crate) fn or_at(self, place: Place) -> Self {
        match self {
            Self::Kind { place: None, kind } => kind.at(place),
            Self::Error(Error::Context { path, problem }) => {
                DiagnosticKind::Context { path, problem }.at(place)
            }
            other => other,
        }
    }
}

impl DiagnosticKind {
    pub(crate) fn at(self, place: Place) -> Fault {
        Fault::Kind { place: Some(place), kind: self }
    }
}

impl From<DiagnosticKind> for Fault {
    fn from(kind: DiagnosticKind) -> Self {
        Self::Kind { place: None, kind }
    }
}

impl From<ExpansionError> for Fault {
    fn from(error: ExpansionError) -> Self {
        DiagnosticKind::Expansion(error).into()
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}
