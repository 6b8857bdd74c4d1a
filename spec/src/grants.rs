use crate::capability::{Capability, Want};

/// What a task may really do, and what was cut or left out on the way there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    /// In force.
    pub capabilities: Vec<Capability>,
    /// Granted, and not used: the image does not ask for it.
    pub cut: Vec<Capability>,
    /// Asked for as optional, and not granted.
    pub denied: Vec<Capability>,
}

/// Something that the image needs and that was not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the image wants `{wanted}`, which it has not been granted")]
pub struct Missing {
    /// The line that would grant it.
    pub wanted: Capability,
}

/// The intersection of what an image wants and what its operator grants.
///
/// An image without wants gets what is granted. One with wants gets, for each, the grant that
/// covers it in the grant's own words (its volume, its ceiling), and grants that it never asked for
/// are cut.
///
/// # Errors
/// [`Missing`] names the first want that is required and not granted.
pub fn effective(wants: &[Want], grants: &[Capability]) -> Result<Effective, Missing> {
    if wants.is_empty() {
        return Ok(Effective { capabilities: grants.to_vec(), ..Effective::default() });
    }
    let mut result = Effective::default();
    for want in wants {
        match grants.iter().find(|grant| grant.covers(&want.capability)) {
            Some(grant) => {
                let narrowed = narrow(grant, &want.capability);
                if !result.capabilities.contains(&narrowed) {
                    result.capabilities.push(narrowed);
                }
            }
            None if want.optional => result.denied.push(want.capability.clone()),
            None => return Err(Missing { wanted: want.capability.clone() }),
        }
    }
    result.cut = grants
        .iter()
        .filter(|grant| !wants.iter().any(|want| grant.covers(&want.capability)))
        .cloned()
        .collect();
    Ok(result)
}

/// The smaller of the two, where `grant` covers `want`: the want's reach, with the operator's
/// volume and ceiling.
fn narrow(grant: &Capability, want: &Capability) -> Capability {
    match (grant, want) {
        (
            Capability::Fs { volume, max_bytes, .. },
            Capability::Fs { path, rights, max_bytes: wanted_max, .. },
        ) => Capability::Fs {
            path: path.clone(),
            rights: *rights,
            volume: volume.clone(),
            max_bytes: match (max_bytes, wanted_max) {
                (Some(a), Some(b)) => Some(*a.min(b)),
                (a, b) => a.or(*b),
            },
        },
        _ => want.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<T: std::str::FromStr<Err = crate::ParseError>>(lines: &[&str]) -> Vec<T> {
        lines.iter().map(|line| line.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    #[test]
    fn wants_and_grants_meet_in_the_smaller_of_the_two() {
        let wants = lines::<Want>(&[
            "fs:/data#rw;volume=any",
            "net.out:https://a.example.com;optional",
            "env:LOG",
            "clock:coarse;optional",
        ]);
        let grants = lines::<Capability>(&[
            "fs:/data#rwd;volume=orders;max=1MiB",
            "env:LOG",
            "env:SPARE",
            "clock:fine",
        ]);
        let got = effective(&wants, &grants).unwrap();
        assert_eq!(
            got.capabilities,
            lines(&["fs:/data#rw;volume=orders;max=1MiB", "env:LOG", "clock:coarse"])
        );
        assert_eq!(got.denied, lines(&["net.out:https://a.example.com:443"]));
        assert_eq!(got.cut, lines(&["env:SPARE"]));
        assert_eq!(effective(&[], &grants).unwrap().capabilities, grants);
    }

    #[test]
    fn a_required_want_without_a_grant_is_named() {
        let wants = lines::<Want>(&["net.out:https://a.example.com"]);
        let missing = effective(&wants, &[]).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "the image wants `net.out:https://a.example.com:443`, which it has not been granted"
        );
    }
}
