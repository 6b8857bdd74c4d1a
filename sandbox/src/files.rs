use std::{io, os::fd::BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// A folder below which files may be opened, and whether they may be changed; or a file.
#[derive(Debug, Clone, Copy)]
pub struct OpenFolder<'a> {
    pub folder: BorrowedFd<'a>,
    pub writable: bool,
}

/// Which TCP connections a process makes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// None: it has the sockets that it was handed.
    None,
    /// Connections to others; no port of its own.
    Connects,
}

/// Landlock: no file can be opened but `program`, and those below `folders`; no TCP port bound, and
/// none connected but for `network`; no signal or abstract socket reaches a process outside.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] when this kernel has no Landlock.
pub fn restrict_files(
    program: Option<BorrowedFd<'_>>,
    folders: &[OpenFolder<'_>],
    network: Network,
) -> io::Result<()> {
    let abi = ABI::V6;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    let handled_network: BitFlags<AccessNet> = match network {
        Network::None => AccessNet::from_all(abi),
        Network::Connects => AccessNet::BindTcp.into(),
    };
    let prepare = || -> Result<_, landlock::RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .handle_access(handled_network)?
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

/// Whether the kernel has Landlock. This process is not restricted by the question.
pub fn has_landlock() -> bool {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Execute);
    ruleset.and_then(Ruleset::create).is_ok()
}

/// Changes root to the empty folder `empty`: paths that Landlock leaves alone (`stat`, `readlink`)
/// lead nowhere from there.
///
/// # Errors
/// When the kernel refuses.
pub fn leave_files(empty: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(empty)?;
    Ok(rustix::process::chroot(".")?)
}
