use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// System calls that are allowed, each with any arguments or with those of its rules only.
pub type Rules = Vec<(libc::c_long, Vec<SeccompRule>)>;

/// Filters, which hold one after the other.
#[derive(Debug)]
pub struct SystemCalls(Vec<BpfProgram>);

impl SystemCalls {
    pub fn of(filters: impl IntoIterator<Item = BpfProgram>) -> Self {
        Self(filters.into_iter().collect())
    }

    /// From here on for this thread and all that it starts. Also gives up gaining privileges, for
    /// ever.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn apply(&self) -> io::Result<()> {
        rustix::thread::set_no_new_privs(true)?;
        for program in &self.0 {
            seccompiler::apply_filter(program).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Reads what the kernel told this process at its start, which is otherwise read at the first look
/// at a clock. Linux before 6.4 has that in a file only: to be called while files can be opened.
pub fn read_auxiliary_vector() {
    let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
}

/// A filter that does `matched` to what a rule names, and `otherwise` to all else.
///
/// # Errors
/// When the rules are too many for a filter.
pub fn compiled(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> io::Result<BpfProgram> {
    let here = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, otherwise, matched, here).map_err(io::Error::other)?;
    BpfProgram::try_from(filter).map_err(io::Error::other)
}

type Condition = Result<SeccompCondition, seccompiler::BackendError>;

/// A rule that holds when all of `conditions` do.
///
/// # Errors
/// When one of them is none.
pub fn all<const N: usize>(conditions: [Condition; N]) -> io::Result<SeccompRule> {
    let conditions = conditions.into_iter().collect::<Result<_, _>>().map_err(io::Error::other)?;
    SeccompRule::new(conditions).map_err(io::Error::other)
}

/// Argument `number` is `value`, by its lower half: every one of these is a C `int`, and the kernel
/// looks no further.
///
/// # Errors
/// When there is no such argument.
pub fn is(number: u8, value: u64) -> Condition {
    SeccompCondition::new(number, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// Of argument `number`, the bits of `mask` are `value`.
///
/// # Errors
/// When there is no such argument.
pub fn masked(number: u8, mask: libc::c_int, value: libc::c_int) -> Condition {
    let mask = SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned()));
    SeccompCondition::new(number, SeccompCmpArgLen::Dword, mask, u64::from(value.cast_unsigned()))
}

/// Rules for argument `number` being one of `values`.
///
/// # Errors
/// When there is no such argument.
pub fn one_of(number: u8, values: &[libc::c_int]) -> io::Result<Vec<SeccompRule>> {
    values.iter().map(|value| all([is(number, *value as u64)])).collect()
}
