//! What the guest was granted, one file per kind: there a grant is checked, enforced, and denied
//! with the line that would grant it. The grants are [`spec::Capabilities`], resolved before by the
//! supervisor, which hands over the descriptors behind them: what it did not hand over is out of
//! reach, whatever happens here.

pub(super) mod clock; // how well the guest tells time
pub(super) mod env; // its variables
pub(super) mod files; // volumes in its tree; what may be done there: `files::volume`
pub(super) mod inbound; // ports on which it is reached
pub(super) mod outbound; // requests that it sends; connected by the broker, which checks them again
pub(super) mod random; // its random numbers
pub(super) mod secrets; // secrets, as files or variables
