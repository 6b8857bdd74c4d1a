use std::collections::BTreeMap;

use spec::EnvGrant;

/// The image's own variables, and of those from outside the granted ones.
pub(crate) fn granted(
    image: BTreeMap<String, String>,
    outside: BTreeMap<String, String>,
    grants: &[EnvGrant],
    denied: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let mut variables = image;
    for (name, value) in outside {
        let wanted = EnvGrant { name };
        match grants.contains(&wanted) {
            true => drop(variables.insert(wanted.name, value)),
            false => denied.push(wanted.to_string()),
        }
    }
    variables
}
