use crate::{
    diagnostic::{Diagnostic, DiagnosticKind, ExpansionError},
    error::Error,
};

/// Why an instruction failed, before its place is known.
#[derive(Debug)]
pub(crate) enum Fault {
    Kind { line: Option<usize>, kind: DiagnosticKind },
    Error(Error),
}

impl Fault {
    /// The same in `file`, at `line` unless the fault has a line of its own.
    pub(crate) fn in_file(self, file: &str, line: Option<usize>) -> Error {
        match self {
            Self::Error(error) => error,
            Self::Kind { line: own, kind } => {
                let file = file.to_owned();
                Error::BuildFile(Diagnostic { file, line: own.or(line), kind })
            }
        }
    }
}

impl DiagnosticKind {
    pub(crate) fn at(self, line: usize) -> Fault {
        Fault::Kind { line: Some(line), kind: self }
    }
}

impl From<DiagnosticKind> for Fault {
    fn from(kind: DiagnosticKind) -> Self {
        Self::Kind { line: None, kind }
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
