/// A language that has a page in the guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    Rust,
    Go,
    C,
    JavaScript,
    Python,
}

/// What a program is run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgramKind {
    /// It answers HTTP requests.
    Http,
    /// It runs from its start to its end.
    Command,
}

impl Language {
    pub const ALL: [Self; 5] = [Self::Rust, Self::Go, Self::C, Self::JavaScript, Self::Python];

    /// Its name as an argument.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Go => "go",
            Self::C => "c",
            Self::JavaScript => "javascript",
            Self::Python => "python",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Go => "Go",
            Self::C => "C",
            Self::JavaScript => "JavaScript",
            Self::Python => "Python",
        }
    }
}
