use futures_util::future::BoxFuture;

use crate::{Committed, Error, Query, Range, Ranged, Rev, Txn, Watch};

/// What any engine promises, in rules R1 to R22 (each has a test in the conformance suite).
///
/// - R1 R2 One counter, 1 when fresh; each transaction that changes anything adds one and stamps
///   all that it writes.
/// - R3 Writing an equal value is a change. R4 Deleting what is absent is not. R5 Deleting a prefix
///   is one revision.
/// - R6 A key knows the revision that made it, the one that last changed it, and how often since it
///   was made.
/// - R7 R8 R9 R10 R12 What a [`Txn`] may hold. R11 Absent, `mod_rev` 0 and `version` 0 are the same
///   thing.
/// - R13 A range is linearizable and current. R14 A limit never hides how many there are.
/// - R15 A transaction whose outcome is unknown answers [`Error::Unknown`], never that it failed.
/// - R16 R17 R22 What may be compacted, and where a watch may start. R18 R19 R20 R21 What a
///   [`Watch`] delivers.
///
/// Every method is cancel safe, in this sense: a transaction that was handed to the engine happens
/// even when its answer is no longer awaited.
pub trait Store: Send + Sync + 'static {
    /// The keys of `query` with their values, in order, as they are now.
    ///
    /// # Errors
    /// [`Error::EmptyKey`].
    fn range(&self, query: Query) -> BoxFuture<'_, Result<Ranged, Error>>;

    /// Does `then` when all compares hold, `otherwise` when not: all of it or nothing, and durable
    /// before it answers.
    ///
    /// # Errors
    /// What [`Txn`] refuses; [`Error::Unavailable`] and [`Error::Broken`], and nothing was changed;
    /// [`Error::Unknown`].
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>>;

    /// Every change of `range` after revision `after`, which a list or an earlier delivery said.
    ///
    /// # Errors
    /// [`Error::FutureRev`], [`Error::Compacted`], [`Error::EmptyKey`].
    fn watch(&self, range: Range, after: Rev) -> BoxFuture<'_, Result<Watch, Error>>;

    /// Forgets the events up to and including `rev`. The current state stays whole.
    ///
    /// # Errors
    /// [`Error::FutureRev`], and [`Error::Compacted`] when it was done before.
    fn compact(&self, rev: Rev) -> BoxFuture<'_, Result<(), Error>>;

    /// The revisions, size and identity of the store.
    ///
    /// # Errors
    /// None that an embedded engine has.
    fn status(&self) -> BoxFuture<'_, Result<Status, Error>>;
}

/// The revisions, size and identity of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Given when the store was made; caches of its content are worth nothing under another.
    pub cluster_id: String,
    /// The newest revision.
    pub rev: Rev,
    /// Events up to here are gone.
    pub compact_rev: Rev,
    /// The number of keys.
    pub keys: usize,
    /// `sqlite` or `memory`.
    pub engine: &'static str,
}
