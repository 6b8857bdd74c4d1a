//! What becomes of the rules of a user that is removed.

use spec::Tenant;
use store::{Range, Txn};

use super::metadata::Metadata;
use crate::{Error, Quota};

/// Rules that have the name of an account or of a repository.
const FAMILIES: [&str; 5] = ["immutable/", "quota/", "retention/", "scan-policy/", "signature/"];

impl Metadata {
    /// Deletes the rules of a user, so that the next of the name inherits none. Those of its
    /// repositories go with these to another user, if they do.
    pub async fn remove_rules(&self, user: &Tenant, to: Option<&Tenant>) -> Result<(), Error> {
        for family in FAMILIES {
            let of_user = format!("{family}{user}");
            let found = self.range(Range::Prefix(of_user.clone()).into(), "list rules").await?;
            for kv in &found.kvs {
                let rest = &kv.key[of_user.len()..];
                if !rest.is_empty() && !rest.starts_with('/') {
                    continue; // of a user with a longer name
                }
                let txn = Txn::new().delete(&*kv.key);
                let txn = match to.filter(|_| !rest.is_empty()) {
                    Some(to) => txn.put(format!("{family}{to}{rest}"), kv.value.clone()),
                    None => txn,
                };
                self.commit_deletion(txn, "remove a rule").await?;
                let name = &kv.key[family.len()..];
                match family {
                    "quota/" => self.usage.set_quota(name, Quota::default()),
                    "immutable/" => {
                        name.parse().iter().for_each(|name| self.rules.set_immutable(name, None));
                    }
                    "signature/" => {
                        name.parse().iter().for_each(|name| self.rules.set_keys(name, None));
                    }
                    "scan-policy/" => {
                        name.parse().iter().for_each(|name| self.rules.set_scan_rule(name, None));
                    }
                    _ => {}
                }
            }
        }
        // What another user has now.
        self.load_rules().await?;
        self.load_quotas().await
    }
}
