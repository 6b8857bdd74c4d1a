use super::grammar::words;

/// How well a guest can tell time, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClockLevel {
    /// Always the same instant.
    None,
    /// Stands still between two imports that wait.
    Frozen,
    /// In steps of a millisecond.
    Coarse,
    /// As the host knows it: the default.
    Fine,
}

words!(ClockLevel, None = "none", Frozen = "frozen", Coarse = "coarse", Fine = "fine");
