//! What a process gives up for ever once it holds everything that it will need: system calls, files
//! and networks, capabilities.

mod seccomp; // system calls: the lists, and the filters made of them

use std::{io, os::fd::BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::thread::{CapabilitySet, CapabilitySets};

pub(crate) use seccomp::{Filter, Strictness};

/// A folder below which files may be opened, and whether they may be changed.
pub(crate) struct OpenFolder<'a> {
    pub folder: BorrowedFd<'a>,
    pub writable: bool,
}

/// Landlock: no file can be opened but `program`, and those below `folders`; no TCP port bound or
/// connected, no signal or abstract socket reaches a process outside.
///
/// # Errors
/// When this kernel has no Landlock: a worker without it is not started.
pub(crate) fn restrict_files(
    program: Option<BorrowedFd<'_>>,
    folders: &[OpenFolder<'_>],
) -> io::Result<()> {
    let abi = ABI::V6;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    let prepare = || -> Result<_, landlock::RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .set_compatibility(CompatLevel::BestEffort);
        if let Some(program) = program {
            ruleset = ruleset.add_rule(PathBeneath::new(program, AccessFs::ReadFile))?;
        }
        for open in folders {
            let allowed: BitFlags<AccessFs> = if open.writable { all } else { read };
            // Nothing below a volume is ever run as a program.
            ruleset =
                ruleset.add_rule(PathBeneath::new(open.folder, allowed & !AccessFs::Execute))?;
        }
        ruleset.restrict_self()
    };
    match prepare().map_err(io::Error::other)?.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel has no Landlock (it came with Linux 5.13)",
        )),
    }
}

/// Gives up every capability but those of `kept`, also those that a user namespace gave.
pub(crate) fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().iter() {
        // Fails without `CAP_SETPCAP`, and then there is nothing to remove either; newer kernels
        // know more of them.
        if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Changes root to the empty folder `empty`: paths that Landlock leaves alone (`stat`, `readlink`)
/// lead nowhere from there.
pub(crate) fn leave_files(empty: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(empty)?;
    Ok(rustix::process::chroot(".")?)
}

/// No process of the same uid may look into this one, and it leaves no core dump.
pub(crate) fn hide() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}
