use super::grammar::words;

/// Where random numbers come from, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RandomLevel {
    /// Zeros.
    None,
    /// The same sequence in every run.
    Seeded,
    /// The kernel's generator: the default.
    Secure,
}

words!(RandomLevel, None = "none", Seeded = "seeded", Secure = "secure");
