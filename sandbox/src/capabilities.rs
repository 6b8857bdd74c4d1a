use std::{fs, io};

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities};

/// Gives up every capability but those of `kept`, also those that a user namespace gave. A program
/// that this process starts can have those of `bounding`.
///
/// # Errors
/// When `kept` has one that this process does not have.
pub fn keep_capabilities(kept: CapabilitySet, bounding: CapabilitySet) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().difference(bounding).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            // Without `CAP_SETPCAP` there is nothing to remove either.
            Err(_) => break,
        }
    }
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// No process of the same uid may look into this one, and it leaves no core dump.
///
/// # Errors
/// When the kernel refuses.
pub fn hide() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// What makes a process another user, and files that one's.
const TO_ANOTHER_USER: CapabilitySet =
    CapabilitySet::CHOWN.union(CapabilitySet::SETUID).union(CapabilitySet::SETGID);

/// Whether this process may become the user `id`: root may, except where it was left without the
/// right, or where that id does not exist, as in most containers of an ordinary user.
pub fn can_become(id: u32) -> bool {
    rustix::process::geteuid().is_root()
        && capabilities(None).is_ok_and(|sets| sets.effective.contains(TO_ANOTHER_USER))
        && has_id(id)
}

/// Whether there is a user and a group `id` in this user namespace, which a process with the rights
/// to it can become.
pub fn has_id(id: u32) -> bool {
    let file = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    maps(&file("uid_map"), id) && maps(&file("gid_map"), id) && file("setgroups").trim() != "deny"
}

/// Whether a user namespace with this `uid_map` has an id. Each line has the first id inside, the
/// first outside, and how many there are.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        let (first, count) = (numbers.next().unwrap_or(0), numbers.nth(1).unwrap_or(0));
        (first..first + count).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_exists_where_the_namespace_has_its_id() {
        for (map, want) in [
            ("         0          0 4294967295\n", true),
            ("         0       1000          1\n", false),
            ("0 1000 1\n1 100000 65536\n", false),
            ("0 1000 1\n999999999 100000 1\n", true),
            ("", false),
        ] {
            assert_eq!(maps(map, 999_999_999), want, "{map}");
        }
    }
}
