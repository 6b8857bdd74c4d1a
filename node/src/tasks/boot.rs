//! Which boot of the machine something belongs to.

use std::sync::OnceLock;

/// The name that the kernel gives this boot of the machine; empty where it gives none, which is the
/// same boot at every look.
pub(crate) fn this_boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        name.trim().to_owned()
    })
}

/// Whether what was written in `boot` is over: the machine has started again since. What names no
/// boot was written by an earlier version, and counts as of this one.
pub(crate) fn is_over(boot: Option<&str>) -> bool {
    boot.is_some_and(|boot| boot != this_boot())
}
