use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// With fewer, a process of the platform is short of them with some hundred connections or tasks.
/// Kernels give at least so many where a system does not say otherwise.
pub const DESCRIPTORS_MIN: u64 = 4096;

/// How many descriptors a process may have, which is the limit of how many connections it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Descriptors(u64);

impl Descriptors {
    pub fn new(most: u64) -> Self {
        Self(most)
    }

    /// What the system allows this process.
    pub fn allowed() -> Self {
        Self(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX))
    }

    /// Raises the limit of this process to what the system allows: most give 1024 to begin with,
    /// which a few hundred connections use up.
    pub fn raise() -> Self {
        let allowed = getrlimit(Resource::Nofile).maximum;
        let raised = Rlimit { current: allowed, maximum: allowed };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit of open descriptors");
        }
        Self::allowed()
    }

    /// How many there are, when that is less than [`DESCRIPTORS_MIN`].
    pub fn few(self) -> Option<u64> {
        (self.0 < DESCRIPTORS_MIN).then_some(self.0)
    }

    /// A limit of a server whose limits together take `wanted` descriptors: in proportion less
    /// where there are not so many, so that the last connection that is admitted has one.
    pub fn share(self, limit: usize, wanted: u64) -> usize {
        if self.0 >= wanted {
            return limit;
        }
        let less = limit as u128 * u128::from(self.0) / u128::from(wanted);
        usize::try_from(less).unwrap_or(limit).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_the_descriptors_that_there_are() {
        for (most, limit, wanted, share) in [
            (u64::MAX, 10_000, 33_568, 10_000),
            (33_568, 10_000, 33_568, 10_000),
            (20_000, 10_000, 33_568, 5_958),
            (1024, 10_000, 33_568, 305),
            (1024, 20, 33_568, 1),
            (0, 1, 1, 1),
        ] {
            assert_eq!(Descriptors::new(most).share(limit, wanted), share, "{most} of {wanted}");
        }
        assert_eq!(Descriptors::new(4096).few(), None);
        assert_eq!(Descriptors::new(1024).few(), Some(1024));
    }
}
