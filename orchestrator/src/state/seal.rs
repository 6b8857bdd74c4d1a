use std::fmt;

use spec::{SecretValue, Tenant};
use store::Sealed;

/// Closes the values of secrets before they come into the store, and opens them again: what was
/// sealed for one name of one tenant opens for no other.
pub(crate) struct Seal(store::Seal);

impl Seal {
    /// The key is made from the one in `secret.key`, and good for nothing else that is made from
    /// it.
    pub fn from(key: &[u8]) -> Self {
        Self(store::Seal::new(key, "secrets at rest, version 1"))
    }

    /// The same for the keys of certificates: neither opens what the other has sealed.
    pub fn of_certificates(key: &[u8]) -> Self {
        Self(store::Seal::new(key, "keys of certificates at rest, version 1"))
    }

    pub fn close(&self, tenant: &Tenant, name: &impl fmt::Display, value: &SecretValue) -> Sealed {
        self.0.close(&owner(tenant, name), value.expose())
    }

    /// Nothing when it was sealed with another key, for another name or tenant, or has changed
    /// since.
    pub fn open(
        &self,
        tenant: &Tenant,
        name: &impl fmt::Display,
        sealed: &Sealed,
    ) -> Option<SecretValue> {
        SecretValue::new(self.0.open(&owner(tenant, name), sealed)?).ok()
    }
}

/// Neither has a `/` in it.
fn owner(tenant: &Tenant, name: &impl fmt::Display) -> String {
    format!("{tenant}/{name}")
}

#[cfg(test)]
mod tests {
    use spec::SecretName;

    use super::*;

    #[test]
    fn a_secret_opens_for_its_own_name_tenant_and_use_and_for_nothing_else() {
        let seal = Seal::from(b"one key");
        let (acme, other): (Tenant, Tenant) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let (key, twin): (SecretName, SecretName) =
            ("key".parse().unwrap(), "twin".parse().unwrap());
        let value = SecretValue::new(b"hunter2".to_vec()).unwrap();
        let sealed = seal.close(&acme, &key, &value);
        assert_eq!(seal.open(&acme, &key, &sealed), Some(value.clone()));
        assert_eq!(seal.open(&other, &key, &sealed), None);
        assert_eq!(seal.open(&acme, &twin, &sealed), None);
        assert_eq!(Seal::of_certificates(b"one key").open(&acme, &key, &sealed), None);
    }
}
