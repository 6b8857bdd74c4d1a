use std::{sync::Arc, time::SystemTime};

use spec::{CredentialName, Tenant, Timestamp};
use store::{Compare, Kv, Query, Range, Txn};
use tokio::sync::watch;

use super::{
    metadata::{Metadata, VERSION, carried_out, decode},
    records::Membership,
    usage::{Counts, account_of},
};
use crate::{
    Error, Repository,
    account::{Account, Holder, RobotRecord, robot_of},
    limits::{
        DELETED_PER_TRANSACTION, HANDED_OVER_BYTES_MAX, ROBOT_USE_NOTED_AFTER, SCAN_PAGE,
        TOKEN_LIFETIME_MAX,
    },
};

/// The families of keys that belong to a repository. Its own record moves and goes last, so that
/// what was interrupted is found again.
const REPOSITORY_KEYS: [&str; 7] =
    ["blob/", "manifest/", "image/", "referrer/", "tagged/", "tag/", "repository/"];

fn robot_key(user: &Tenant, robot: &CredentialName) -> String {
    format!("robot/{user}+{robot}")
}

/// The keys of the repositories of a user, of one family.
fn of_user(user: &Tenant) -> impl Fn(&str) -> Range {
    move |family| Range::Prefix(format!("{family}{user}/"))
}

fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}

impl Metadata {
    pub async fn robot(
        &self,
        user: &Tenant,
        robot: &CredentialName,
    ) -> Result<Option<RobotRecord>, Error> {
        self.get(robot_key(user, robot)).await
    }

    /// Adds a robot account; whether there was none of that name.
    pub async fn add_robot(
        &self,
        user: &Tenant,
        robot: &CredentialName,
        record: &RobotRecord,
    ) -> Result<bool, Error> {
        let key = robot_key(user, robot);
        let txn =
            Txn::new().when(Compare::Absent(key.clone())).put(key, store::encode(VERSION, record));
        self.commit(txn, "store a robot account").await
    }

    /// Replaces the record of a robot account.
    pub async fn put_robot(
        &self,
        user: &Tenant,
        robot: &CredentialName,
        record: &RobotRecord,
    ) -> Result<(), Error> {
        let txn = Txn::new().put(robot_key(user, robot), store::encode(VERSION, record));
        self.commit(txn, "store a robot account").await?;
        self.accounts.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Whether the robot account existed.
    pub async fn remove_robot(&self, user: &Tenant, robot: &CredentialName) -> Result<bool, Error> {
        self.forget_robot(user, robot).await?;
        let removed = self.remove(robot_key(user, robot), Txn::new()).await?;
        self.accounts.send_modify(|changes| *changes += 1);
        Ok(removed)
    }

    /// The robot accounts of `user`, or of all users.
    pub async fn robots(
        &self,
        user: Option<&Tenant>,
    ) -> Result<Vec<(Tenant, CredentialName, RobotRecord)>, Error> {
        let prefix = user.map_or("robot/".to_owned(), |user| format!("robot/{user}+"));
        let mut robots = Vec::new();
        self.scan(&prefix, false, |kv| {
            let login = kv.key.strip_prefix("robot/").and_then(robot_of);
            if let Some((user, robot)) = login {
                robots.push((user, robot, decode(kv)?));
            }
            Ok(())
        })
        .await?;
        Ok(robots)
    }

    /// The account of a robot with this secret. Notes that it was used, now and then.
    pub async fn log_in_robot(
        &self,
        user: &Tenant,
        robot: &CredentialName,
        secret: &str,
    ) -> Result<Option<Account>, Error> {
        let (key, at) = (robot_key(user, robot), now());
        let found = self.range(Query::key(&*key), "look up a key").await?;
        let Some(kv) = found.first() else { return Ok(None) };
        let record: RobotRecord = decode(kv)?;
        if !record.accepts(secret) || !record.is_valid(at) || !self.has_account(user).await? {
            return Ok(None);
        }
        let account = Account::of_robot(user, robot, &record);
        if record.last_used.is_none_or(|last| at.since(last) >= ROBOT_USE_NOTED_AFTER) {
            let used = RobotRecord { last_used: Some(at), ..record };
            let txn = Txn::new().when(Compare::ModRev(key.clone(), kv.mod_rev));
            let txn = txn.put(key, store::encode(VERSION, &used));
            self.commit(txn, "note a login").await?; // or another login has noted it
        }
        Ok(Some(account))
    }

    /// What an account is, while it has the password or secret that it had.
    pub async fn holder(&self, account: &Account) -> Result<Option<Holder>, Error> {
        let Some((user, robot)) = robot_of(&account.login) else {
            let user = account.login.parse::<Tenant>();
            let Ok(user) = user else { return Ok(None) };
            let record = self.user(&user).await?;
            let holds = record.is_some_and(|record| record.serial == account.serial);
            return Ok(holds.then_some(Holder::User));
        };
        let holds =
            |record: &RobotRecord| record.serial == account.serial && record.is_valid(now());
        match self.robot(&user, &robot).await?.filter(holds) {
            Some(record) if self.has_account(&user).await? => Ok(Some(record.holder())),
            Some(_) | None => Ok(None),
        }
    }

    /// Refuses every token that was minted for a machine until `now`, in seconds of the clock.
    pub async fn revoke_machine(&self, name: &str, now: u64) -> Result<(), Error> {
        let over = now.saturating_sub(TOKEN_LIFETIME_MAX.as_secs());
        let mut old = Vec::new();
        self.scan("revoked/", false, |kv| {
            if decode::<u64>(kv)? < over {
                old.push(kv.key.to_string());
            }
            Ok(())
        })
        .await?;
        let key = format!("revoked/{name}");
        old.retain(|old| *old != key);
        old.truncate(DELETED_PER_TRANSACTION);
        let txn = Txn::new().put(key, store::encode(VERSION, &now));
        let txn = old.into_iter().fold(txn, |txn, key| txn.delete(key));
        self.commit(txn, "revoke tokens").await?;
        self.accounts.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Whether a token that was minted for a machine at `minted` still holds.
    pub async fn is_machine_current(&self, name: &str, minted: u64) -> Result<bool, Error> {
        let revoked: Option<u64> = self.get(format!("revoked/{name}")).await?;
        Ok(revoked.is_none_or(|until| minted > until))
    }

    /// Changes with accounts, roles and the visibility of repositories.
    pub fn access_changes(&self) -> watch::Receiver<u64> {
        self.accounts.subscribe()
    }

    /// The repositories `USER/…`, at most a page of them.
    pub async fn owned(&self, user: &Tenant) -> Result<Vec<Repository>, Error> {
        let page = self.repositories(&format!("{user}/"), "", SCAN_PAGE).await?;
        Ok(page.entries.into_iter().map(|(repository, _)| repository).collect())
    }

    /// Makes every repository `FROM/…` the repository `TO/…`. What was interrupted goes on when it
    /// is called again.
    pub async fn transfer(&self, from: &Tenant, to: &Tenant) -> Result<(), Error> {
        // A half of it must not stay: a collection would take blobs without their manifests.
        let moving = format!("moving/{from}");
        let txn = Txn::new().put(&*moving, store::encode(VERSION, to));
        self.commit(txn, "begin to hand over repositories").await?;
        self.take_keys(of_user(from), |kv| {
            let (family, rest) = kv.key.split_once('/')?;
            let name = rest.strip_prefix(from.as_str())?;
            Some((format!("{family}/{to}{name}"), kv.value.clone()))
        })
        .await?;
        self.remove(moving, Txn::new()).await.map(drop)
    }

    /// Ends what a process has begun to hand over before it was killed.
    pub async fn resume_transfers(&self) -> Result<(), Error> {
        let mut moving: Vec<(Tenant, Tenant)> = Vec::new();
        self.scan("moving/", false, |kv| {
            let from = kv.key.strip_prefix("moving/").and_then(|name| name.parse().ok());
            moving.extend(from.map(|from| Ok::<_, Error>((from, decode(kv)?))).transpose()?);
            Ok(())
        })
        .await?;
        for (from, to) in moving {
            self.transfer(&from, &to).await?;
        }
        Ok(())
    }

    /// Deletes the records of every repository `USER/…`. Blobs that no other repository has are
    /// out of reach from then on.
    pub async fn delete_repositories(&self, user: &Tenant) -> Result<(), Error> {
        self.take_keys(of_user(user), |_| None).await
    }

    /// Deletes the records of a repository. Whether there was one.
    pub async fn delete_repository(&self, repository: &Repository) -> Result<bool, Error> {
        let existed = self.repository(repository).await?.is_some();
        let of_it = |family: &str| match family {
            "repository/" => Range::Key(format!("{family}{repository}")),
            _ => Range::Prefix(format!("{family}{repository}:")),
        };
        self.take_keys(of_it, |_| None).await?;
        if existed {
            self.tell_deleted(repository).await?;
        }
        Ok(existed)
    }

    /// Takes away every key of some repositories, and puts what `place` says in its place: each key
    /// and its successor in one transaction.
    async fn take_keys(
        &self,
        keys: impl Fn(&str) -> Range,
        place: impl Fn(&Kv) -> Option<(String, Arc<[u8]>)>,
    ) -> Result<(), Error> {
        for family in REPOSITORY_KEYS {
            loop {
                let query = Query::from(keys(family)).limit(DELETED_PER_TRANSACTION / 2);
                let found = self.range(query, "list the keys of repositories").await?;
                if found.kvs.is_empty() {
                    break;
                }
                // A transaction has a limit of bytes besides, and referrers can be long.
                let mut bytes = 0;
                let fits = found.kvs.iter().take_while(|kv| {
                    let before = bytes;
                    bytes += kv.value.len();
                    before == 0 || bytes <= HANDED_OVER_BYTES_MAX
                });
                let mut moved = Moved::default();
                for kv in fits {
                    moved.add(family, kv, place(kv))?;
                }
                self.commit_moved(moved).await?;
            }
        }
        Ok(())
    }

    /// One that lost against a concurrent change did nothing: its keys are found again.
    async fn commit_moved(&self, moved: Moved) -> Result<(), Error> {
        let mut changes = Vec::new();
        for (repository, counts, is_more) in moved.changes {
            changes.push((
                self.counted(account_of(&repository)).await?,
                repository,
                counts,
                is_more,
            ));
        }
        let (this, txn) = (self.clone(), moved.txn);
        carried_out(async move {
            if this.commit_deletion(txn, "hand over repositories").await? {
                for (account, repository, counts, is_more) in changes {
                    match (account.get(), is_more) {
                        (Some(account), true) => account.add(&repository, counts),
                        (Some(account), false) => account.subtract(&repository, counts),
                        (None, _) => {}
                    }
                }
            }
            Ok(())
        })
        .await
    }
}

/// Keys on their way to another name, or away, and what that changes in the counters.
#[derive(Default)]
struct Moved {
    txn: Txn,
    /// In which repository, by how much, and whether there is more of it then.
    changes: Vec<(Repository, Counts, bool)>,
}

impl Moved {
    fn add(
        &mut self,
        family: &str,
        kv: &Kv,
        successor: Option<(String, Arc<[u8]>)>,
    ) -> Result<(), Error> {
        let counts = match family {
            "blob/" | "manifest/" => {
                Counts { bytes: decode::<Membership>(kv)?.size, ..Counts::default() }
            }
            "tag/" => Counts { tags: 1, ..Counts::default() },
            "repository/" => Counts { repositories: 1, ..Counts::default() },
            _ => Counts::default(),
        };
        let of = |key: &str| {
            let rest = &key[family.len()..];
            rest.split_once(':').map_or(rest, |(name, _)| name).parse::<Repository>().ok()
        };
        self.changes.extend(of(&kv.key).map(|repository| (repository, counts, false)));
        let mut txn = std::mem::take(&mut self.txn);
        txn = txn.when(Compare::ModRev(kv.key.to_string(), kv.mod_rev));
        if let Some((key, value)) = successor {
            self.changes.extend(of(&key).map(|repository| (repository, counts, true)));
            txn = txn.put(key, value);
        }
        self.txn = txn.delete(kv.key.to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use spec::{Digest, MediaType};
    use store::MemoryStore;

    use super::*;
    use crate::{
        repository::Actions,
        storage::{ManifestRecord, User},
    };

    #[tokio::test]
    async fn repositories_are_handed_over_with_all_that_is_in_them_and_those_of_others_stay() {
        let metadata = Metadata::on(Arc::new(MemoryStore::new()));
        let repository = |name: &str| name.parse::<Repository>().unwrap();
        let (ann, bob): (Tenant, Tenant) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        let digest = Digest::of(b"1");
        let record = ManifestRecord {
            media_type: MediaType::OCI_MANIFEST.into(),
            size: 3,
            subject: None,
            links: None,
            pushed: None,
            pulled: None,
        };
        for name in ["ann/cats", "ann/a/b", "anna/cats", "bob/dogs"] {
            let name = repository(name);
            metadata.add_blob(&name, &digest, 1).await.unwrap();
            let tags: Vec<String> = (0..60).map(|n| format!("v{n}")).collect();
            metadata
                .put_manifest(&name, &digest, &record, (&tags[..30], Actions::ALL), None)
                .await
                .unwrap();
            metadata
                .put_manifest(&name, &digest, &record, (&tags[30..], Actions::ALL), None)
                .await
                .unwrap();
        }
        metadata.set_public(&repository("ann/cats"), true).await.unwrap();
        metadata.transfer(&ann, &bob).await.unwrap();
        assert_eq!(metadata.owned(&ann).await.unwrap(), []);
        let names = ["bob/a/b", "bob/cats", "bob/dogs"].map(repository);
        assert_eq!(metadata.owned(&bob).await.unwrap(), names);
        assert!(metadata.is_public(&names[1]).await.unwrap());
        for name in &names {
            assert_eq!(metadata.manifest(name, &digest).await.unwrap(), Some(record.clone()));
            assert_eq!(metadata.tags(name, "", 1000).await.unwrap().entries.len(), 60, "{name}");
            assert!(metadata.blob(name, &digest).await.unwrap().is_some());
        }
        for key in ["blob/ann/cats", "tag/ann/cats", "manifest/ann/a"] {
            let left = metadata.range(Query::prefix(key), "look").await.unwrap();
            assert!(left.kvs.is_empty(), "{key}");
        }
        // A process that was killed in the middle is continued by the next.
        let txn = Txn::new().put("moving/bob", store::encode(VERSION, &ann));
        metadata.commit(txn, "begin").await.unwrap();
        metadata.resume_transfers().await.unwrap();
        assert_eq!(metadata.owned(&bob).await.unwrap(), []);
        metadata.transfer(&ann, &bob).await.unwrap();
        metadata.resume_transfers().await.unwrap();
        assert_eq!(metadata.owned(&bob).await.unwrap(), names);
        metadata.delete_repositories(&bob).await.unwrap();
        assert_eq!(metadata.owned(&bob).await.unwrap(), []);
        assert!(metadata.blob(&names[0], &digest).await.unwrap().is_none());
        assert!(metadata.blob(&repository("anna/cats"), &digest).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn an_account_is_current_until_its_record_changes() {
        let metadata = Metadata::on(Arc::new(MemoryStore::new()));
        let (ann, ci): (Tenant, CredentialName) = ("ann".parse().unwrap(), "ci".parse().unwrap());
        let user = |serial: &str| User { password: String::new(), serial: serial.to_owned() };
        metadata.put_user(&ann, &user("1")).await.unwrap();
        let account = Account::of_user(&ann, "1");
        assert_eq!(metadata.holder(&account).await.unwrap(), Some(Holder::User));
        let wanted = serde_json::from_str(r#"{"scope":"pull","lifetime_seconds":60}"#).unwrap();
        let (record, secret) = RobotRecord::new(wanted, now());
        assert!(metadata.add_robot(&ann, &ci, &record).await.unwrap());
        assert!(!metadata.add_robot(&ann, &ci, &record).await.unwrap());
        let robot = metadata.log_in_robot(&ann, &ci, &secret).await.unwrap().unwrap();
        assert_eq!(robot.login, "ann+ci");
        assert!(metadata.robot(&ann, &ci).await.unwrap().unwrap().last_used.is_some());
        assert_eq!(metadata.log_in_robot(&ann, &ci, "guess").await.unwrap(), None);
        let expired = RobotRecord { expires: now(), ..record.clone() };
        metadata.put_robot(&ann, &ci, &expired).await.unwrap();
        assert_eq!(metadata.log_in_robot(&ann, &ci, &secret).await.unwrap(), None);
        assert_eq!(metadata.holder(&robot).await.unwrap(), None);
        metadata.put_robot(&ann, &ci, &record).await.unwrap();
        let changes = metadata.access_changes();
        metadata.put_robot(&ann, &ci, &record.clone().with_fresh_secret(now()).0).await.unwrap();
        assert!(changes.has_changed().unwrap());
        assert_eq!(metadata.holder(&robot).await.unwrap(), None, "another secret");
        metadata.put_user(&ann, &user("2")).await.unwrap();
        assert_eq!(metadata.holder(&account).await.unwrap(), None, "another password");
    }
}
