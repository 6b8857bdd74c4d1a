//! Switches and immutable tags: kept as records, asked for in memory.

use store::Txn;

use super::metadata::{Metadata, VERSION, decode};
use crate::{
    Error, Repository, RepositoryPattern, VerifyingKey,
    protocol::{Immutable, RateLimits, ScanRule, Switch},
};

const RATE_LIMITS: &str = "rate-limits";

impl Metadata {
    /// Takes the rules into memory.
    pub async fn load_rules(&self) -> Result<(), Error> {
        for switch in Switch::ALL {
            let on: Option<bool> = self.get(switch.name().to_owned()).await?;
            self.rules.set(switch, on.unwrap_or(false));
        }
        let rates: Option<RateLimits> = self.get(RATE_LIMITS.to_owned()).await?;
        self.rules.set_rates(rates.unwrap_or_default());
        self.scan("signature/", false, |kv| {
            let pattern = kv.key.strip_prefix("signature/").and_then(|text| text.parse().ok());
            if let Some(pattern) = pattern {
                self.rules.set_keys(&pattern, Some(decode(kv)?));
            }
            Ok(())
        })
        .await?;
        self.scan("scan-policy/", false, |kv| {
            let pattern = kv.key.strip_prefix("scan-policy/").and_then(|text| text.parse().ok());
            if let Some(pattern) = pattern {
                self.rules.set_scan_rule(&pattern, Some(decode(kv)?));
            }
            Ok(())
        })
        .await?;
        self.scan("immutable/", false, |kv| {
            if let Some(name) = kv.key.strip_prefix("immutable/").and_then(|name| name.parse().ok())
            {
                self.rules.set_immutable(&name, Some(decode(kv)?));
            }
            Ok(())
        })
        .await
    }

    pub async fn set_switch(&self, switch: Switch, on: bool) -> Result<(), Error> {
        let txn = match on {
            true => Txn::new().put(switch.name(), store::encode(VERSION, &true)),
            false => Txn::new().delete(switch.name()),
        };
        self.commit_deletion(txn, "set a switch").await?;
        self.rules.set(switch, on);
        Ok(())
    }

    /// Limits the requests of clients.
    pub async fn set_rates(&self, rates: RateLimits) -> Result<(), Error> {
        let txn = Txn::new().put(RATE_LIMITS, store::encode(VERSION, &rates));
        self.commit(txn, "set rate limits").await?;
        self.rules.set_rates(rates);
        Ok(())
    }

    /// Serves images of some repositories only when one of these keys has signed them, or all
    /// again.
    pub async fn set_signature_policy(
        &self,
        pattern: &RepositoryPattern,
        keys: Option<Vec<VerifyingKey>>,
    ) -> Result<(), Error> {
        let key = format!("signature/{pattern}");
        let txn = match &keys {
            Some(keys) => Txn::new().put(key, store::encode(VERSION, keys)),
            None => Txn::new().delete(key),
        };
        self.commit(txn, "set a policy of signatures").await?;
        self.rules.set_keys(pattern, keys);
        Ok(())
    }

    /// Refuses images of some repositories for what a scan has found, or serves all again.
    pub async fn set_scan_policy(
        &self,
        pattern: &RepositoryPattern,
        rule: Option<ScanRule>,
    ) -> Result<(), Error> {
        let key = format!("scan-policy/{pattern}");
        let txn = match &rule {
            Some(rule) => Txn::new().put(key, store::encode(VERSION, rule)),
            None => Txn::new().delete(key),
        };
        self.commit(txn, "set a policy of scans").await?;
        self.rules.set_scan_rule(pattern, rule);
        Ok(())
    }

    /// Makes the tags of a repository immutable, or mutable again.
    pub async fn set_immutable(
        &self,
        repository: &Repository,
        rule: Option<Immutable>,
    ) -> Result<(), Error> {
        let key = format!("immutable/{repository}");
        let txn = match &rule {
            Some(rule) => Txn::new().put(key, store::encode(VERSION, rule)),
            None => Txn::new().delete(key),
        };
        self.commit(txn, "set a rule for tags").await?;
        self.rules.set_immutable(repository, rule);
        Ok(())
    }
}
