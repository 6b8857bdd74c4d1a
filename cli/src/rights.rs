//! What root becomes: the users of servers, and the capabilities that an agent keeps.

use rustix::thread::CapabilitySet;

/// The user of the registry. Above every range that distributions hand out, below the workers' and
/// not the ingress's.
pub const REGISTRY: u32 = 999_999_997;

/// The user of the control plane, between the two.
pub const CONTROL_PLANE: u32 = 999_999_998;

/// What the agent keeps of root's capabilities, and `margay up` for it. SECURITY.md says what for.
pub const AGENT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SETFCAP);
