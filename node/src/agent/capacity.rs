use spec::{NodeSpec, Resources};

use super::settings::Settings;

/// Kept for the system and ourselves: a tenth.
const SHARE_FOR_TASKS: (u64, u64) = (9, 10);

/// What this machine is and has.
pub(super) fn node_spec(settings: &Settings, pool_native: bool) -> NodeSpec {
    let mut labels = settings.labels.clone();
    labels.remove(spec::POOL_NATIVE_LABEL);
    if pool_native {
        labels.insert(spec::POOL_NATIVE_LABEL.to_owned(), "true".to_owned());
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo_bytes(&meminfo, "MemTotal").unwrap_or(0);
    NodeSpec {
        capacity: Resources {
            cpu_millis: u32::try_from(processors * 1000).unwrap_or(u32::MAX),
            memory_bytes: memory / SHARE_FOR_TASKS.1 * SHARE_FOR_TASKS.0,
        },
        zone: settings.zone.clone(),
        architecture: crate::images::architecture().to_owned(),
        runs_native: shim::check_rights().is_ok() && shim::Runtime::probe().is_ok(),
        ingress_address: settings.ingress_address.clone(),
        labels,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// `MemTotal:       16307360 kB`
pub(super) fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_machine_is_read_as_linux_writes_it() {
        for (text, want) in [
            ("MemTotal:       16307360 kB\nMemFree: 1 kB\n", Some(16_307_360 * 1024)),
            ("MemFree: 1 kB\n", None),
            ("MemTotal: x kB\n", None),
            ("", None),
        ] {
            assert_eq!(meminfo_bytes(text, "MemTotal"), want, "{text}");
        }
    }
}
