use std::sync::Arc;

use crate::{
    Error, Query, Range, Ranged, Rev,
    limits::{KEY_BYTES_MAX, OPS_MAX, TXN_BYTES_MAX, VALUE_BYTES_MAX},
};

/// Compares, what to do when all of them hold, and what to do when not.
///
/// Refused before it runs: a key written twice in one list (R7), a read of what the same list
/// writes (R12), more than 100 operations in a list, a value above 256 KiB or 1 MiB in all (R8), an
/// empty key (R9).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Done when they do.
    pub then: Vec<Op>,
    /// Done when one does not.
    pub otherwise: Vec<Op>,
}

/// R10: a condition on one key. Values and ranges cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// It does not exist.
    Absent(String),
    /// It was last changed by this revision; 0 means that it does not exist (R11).
    ModRev(String, Rev),
    /// It was made by this revision; 0 means that it does not exist (R11).
    CreateRev(String, Rev),
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// Not empty.
        key: String,
        /// May be empty.
        value: Arc<[u8]>,
    },
    /// Deletes keys.
    Delete(Range),
    /// Reads keys, as they were before this transaction.
    Get(Query),
}

/// A transaction that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The newest revision after it.
    pub rev: Rev,
    /// Whether all compares held.
    pub succeeded: bool,
    /// One for each operation that was done, in order.
    pub outcomes: Vec<Outcome>,
}

/// The result of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A key was written.
    Put,
    /// The number of keys that were deleted.
    Deleted(usize),
    /// The keys that were read.
    Got(Ranged),
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if `compare` holds.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Then do `op`.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Then write.
    #[must_use]
    pub fn put(self, key: impl Into<String>, value: impl Into<Arc<[u8]>>) -> Self {
        self.then(Op::Put { key: key.into(), value: value.into() })
    }

    /// Then delete one key.
    #[must_use]
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.then(Op::Delete(Range::Key(key.into())))
    }

    /// Otherwise do `op`.
    #[must_use]
    pub fn otherwise(mut self, op: Op) -> Self {
        self.otherwise.push(op);
        self
    }

    /// Whether it would be run at all.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (what, found) in [
            ("the number of compares", self.compares.len()),
            ("the number of operations", self.then.len().max(self.otherwise.len())),
        ] {
            at_most(what, OPS_MAX, found)?;
        }
        self.compares.iter().try_for_each(|compare| check_key(compare.key()))?;
        let bytes = self.compares.iter().map(|compare| compare.key().len()).sum::<usize>()
            + self.then.iter().chain(&self.otherwise).map(Op::bytes).sum::<usize>();
        at_most("the transaction in bytes", TXN_BYTES_MAX, bytes)?;
        check_list(&self.then)?;
        check_list(&self.otherwise)
    }

    /// How much work it is, for the group commit.
    pub(crate) fn weight(&self) -> usize {
        self.then.len().max(self.otherwise.len()).max(1)
    }
}

impl Compare {
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::ModRev(key, _) | Self::CreateRev(key, _) => key,
        }
    }
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Delete(range) | Self::Get(Query { range, .. }) => range.stem().len(),
        }
    }
}

fn at_most(what: &'static str, max: usize, found: usize) -> Result<(), Error> {
    if found <= max { Ok(()) } else { Err(Error::TooLarge { what, max, found }) }
}

fn check_key(key: &str) -> Result<(), Error> {
    match key {
        "" => Err(Error::EmptyKey),
        _ => at_most("a key in bytes", KEY_BYTES_MAX, key.len()),
    }
}

fn check_list(ops: &[Op]) -> Result<(), Error> {
    let mut written: Vec<Range> = Vec::new();
    for op in ops {
        let range = match op {
            Op::Put { key, value } => {
                check_key(key)?;
                at_most("a value in bytes", VALUE_BYTES_MAX, value.len())?;
                Range::Key(key.clone())
            }
            Op::Delete(range) => {
                range.check()?;
                range.clone()
            }
            Op::Get(_) => continue,
        };
        if written.iter().any(|other| other.overlaps(&range)) {
            return Err(Error::DuplicateKey { key: range.stem().to_owned() });
        }
        written.push(range);
    }
    for op in ops {
        if let Op::Get(Query { range, .. }) = op {
            range.check()?;
            if written.iter().any(|other| other.overlaps(range)) {
                return Err(Error::ReadOfWritten { key: range.stem().to_owned() });
            }
        }
    }
    Ok(())
}
