use std::collections::BTreeMap;

use spec::{SecretGrant, SecretName};

/// Secrets as they were granted.
#[derive(Default)]
pub(crate) struct Secrets {
    /// Files below `/run/secrets`.
    pub files: Vec<(String, Vec<u8>)>,
    pub variables: Vec<(String, String)>,
}

pub(crate) fn granted(
    values: BTreeMap<SecretName, Vec<u8>>,
    grants: &[SecretGrant],
    denied: &mut Vec<String>,
) -> Secrets {
    let mut secrets = Secrets::default();
    for (name, value) in values {
        let [as_file, as_env] =
            [false, true].map(|as_env| SecretGrant { name: name.clone(), as_env });
        let (file, env) = (grants.contains(&as_file), grants.contains(&as_env));
        if !file && !env {
            denied.push(as_file.to_string());
        }
        // The supervisor has refused a variable that is no text.
        if env && let Ok(text) = String::from_utf8(value.clone()) {
            secrets.variables.push((name.to_string(), text));
        }
        if file {
            secrets.files.push((name.to_string(), value));
        }
    }
    secrets
}
