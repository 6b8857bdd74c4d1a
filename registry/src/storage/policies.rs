//! Organisations, teams and policies: kept as records, asked for in memory.

use std::{collections::BTreeSet, sync::RwLockReadGuard, time::SystemTime};

use serde::{Deserialize, Serialize};
use spec::{CredentialName, Tenant, Timestamp};
use store::Txn;

use super::{
    metadata::{Metadata, VERSION, decode},
    policy_table::PolicyTable,
};
use crate::{
    Error,
    limits::{
        OPERATORS_MAX, ORGANISATIONS_MAX, POLICIES_MAX, POLICIES_OF_ACCOUNT_MAX, TEAM_MEMBERS_MAX,
        TEAMS_MAX,
    },
    protocol::{PolicyInfo, RepositoryPattern, Role, Subject, TeamChange, TeamInfo, TeamName},
};

#[derive(Serialize, Deserialize)]
struct OrganisationRecord {
    created: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct TeamRecord {
    members: BTreeSet<Tenant>,
}

#[derive(Serialize, Deserialize)]
struct PolicyRecord {
    roles: BTreeSet<Role>,
}

/// Why organisations, teams and policies stay as they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("a registry has at most {max} {what}")]
    TooMany { what: &'static str, max: usize },
    #[error("`{0}` is no user of this registry")]
    NoUser(Tenant),
    #[error(transparent)]
    Failed(#[from] Error),
}

fn organisation_key(name: &Tenant) -> String {
    format!("organisation/{name}")
}

fn team_key(team: &TeamName) -> String {
    format!("team/{team}")
}

fn policy_key(pattern: &RepositoryPattern, subject: &Subject) -> String {
    format!("policy/{pattern} {subject}")
}

impl Metadata {
    pub fn policies(&self) -> RwLockReadGuard<'_, PolicyTable> {
        self.policies.read()
    }

    /// A user of this name, or an organisation.
    pub async fn has_account(&self, name: &Tenant) -> Result<bool, Error> {
        Ok(self.policies().is_organisation(name) || self.user(name).await?.is_some())
    }

    /// Takes organisations, teams and policies into memory.
    pub async fn load_policies(&self) -> Result<(), Error> {
        let mut table = PolicyTable::default();
        self.scan("organisation/", false, |kv| {
            let name = kv.key.strip_prefix("organisation/").and_then(|name| name.parse().ok());
            if let Some(name) = name {
                let OrganisationRecord { created } = decode(kv)?;
                table.set_organisation(&name, Some(created));
            }
            Ok(())
        })
        .await?;
        self.scan("operator/", true, |kv| {
            if let Some(user) = kv.key.strip_prefix("operator/").and_then(|name| name.parse().ok())
            {
                table.set_operator(&user, true);
            }
            Ok(())
        })
        .await?;
        self.scan("team/", false, |kv| {
            if let Some(team) = kv.key.strip_prefix("team/").and_then(|team| team.parse().ok()) {
                table.set_team(&team, Some(decode::<TeamRecord>(kv)?.members));
            }
            Ok(())
        })
        .await?;
        self.scan("policy/", false, |kv| {
            let parts = kv.key.strip_prefix("policy/").and_then(|rest| rest.split_once(' '));
            let parts = parts.and_then(|(pattern, subject)| {
                Some((pattern.parse().ok()?, subject.parse().ok()?))
            });
            if let Some((pattern, subject)) = parts {
                table.set_policy(&pattern, &subject, Some(decode::<PolicyRecord>(kv)?.roles));
            }
            Ok(())
        })
        .await?;
        self.change_table(|current| *current = table);
        Ok(())
    }

    /// What goes on in the name of a client is asked again afterwards.
    fn change_table(&self, change: impl FnOnce(&mut PolicyTable)) {
        self.policies.change(change);
        self.accounts.send_modify(|changes| *changes += 1);
    }

    /// Makes a user an operator, or one no more.
    pub async fn set_operator(&self, user: &Tenant, is: bool) -> Result<(), PolicyError> {
        let _changing = self.policies.changing.lock().await;
        if is && self.user(user).await?.is_none() {
            return Err(PolicyError::NoUser(user.clone()));
        }
        if is && self.policies().operators().count() >= OPERATORS_MAX {
            return Err(too_many("operators", OPERATORS_MAX));
        }
        Ok(self.put_operator(user, is).await?)
    }

    async fn put_operator(&self, user: &Tenant, is: bool) -> Result<(), Error> {
        let key = format!("operator/{user}");
        let txn = match is {
            true => Txn::new().put(key, store::encode(VERSION, &true)),
            false => Txn::new().delete(key),
        };
        self.commit_deletion(txn, "store an operator").await?;
        self.change_table(|table| table.set_operator(user, is));
        Ok(())
    }

    pub async fn add_organisation(&self, name: &Tenant) -> Result<(), PolicyError> {
        let _changing = self.policies.changing.lock().await;
        if self.policies().organisations().count() >= ORGANISATIONS_MAX {
            return Err(too_many("organisations", ORGANISATIONS_MAX));
        }
        let created = Timestamp::of(SystemTime::now());
        let record = store::encode(VERSION, &OrganisationRecord { created });
        let txn = Txn::new().put(organisation_key(name), record);
        self.commit(txn, "store an organisation").await?;
        self.change_table(|table| table.set_organisation(name, Some(created)));
        Ok(())
    }

    pub async fn remove_organisation(&self, name: &Tenant) -> Result<(), Error> {
        let _changing = self.policies.changing.lock().await;
        let txn = Txn::new().delete(organisation_key(name));
        self.commit_deletion(txn, "remove an organisation").await?;
        self.change_table(|table| table.set_organisation(name, None));
        Ok(())
    }

    /// Changes the members of a team, which is made if there is none.
    pub async fn change_team(
        &self,
        team: &TeamName,
        change: &TeamChange,
    ) -> Result<TeamInfo, PolicyError> {
        let _changing = self.policies.changing.lock().await;
        for user in &change.add {
            if self.user(user).await?.is_none() {
                return Err(PolicyError::NoUser(user.clone()));
            }
        }
        let before = self.policies().members(team).cloned();
        if before.is_none() && self.policies().teams().count() >= TEAMS_MAX {
            return Err(too_many("teams", TEAMS_MAX));
        }
        let mut members = before.unwrap_or_default();
        members.extend(change.add.iter().cloned());
        members.retain(|member| !change.remove.contains(member));
        if members.len() > TEAM_MEMBERS_MAX {
            return Err(too_many("members in one team", TEAM_MEMBERS_MAX));
        }
        self.put_team(team, &members).await?;
        Ok(TeamInfo { team: team.clone(), members })
    }

    async fn put_team(&self, team: &TeamName, members: &BTreeSet<Tenant>) -> Result<(), Error> {
        let record = TeamRecord { members: members.clone() };
        let txn = Txn::new().put(team_key(team), store::encode(VERSION, &record));
        self.commit_deletion(txn, "store a team").await?;
        self.change_table(|table| table.set_team(team, Some(record.members)));
        Ok(())
    }

    /// Removes a team with the policies that name it. Whether there was one.
    pub async fn remove_team(&self, team: &TeamName) -> Result<bool, Error> {
        let _changing = self.policies.changing.lock().await;
        if self.policies().members(team).is_none() {
            return Ok(false);
        }
        self.forget(|_, subject| *subject == Subject::Team(team.clone())).await?;
        self.delete_team(team).await?;
        Ok(true)
    }

    async fn delete_team(&self, team: &TeamName) -> Result<(), Error> {
        let txn = Txn::new().delete(team_key(team));
        self.commit_deletion(txn, "remove a team").await?;
        self.change_table(|table| table.set_team(team, None));
        Ok(())
    }

    /// Sets what a subject may do by the policy of this pattern.
    pub async fn set_policy(
        &self,
        pattern: &RepositoryPattern,
        subject: &Subject,
        roles: BTreeSet<Role>,
    ) -> Result<(), PolicyError> {
        let _changing = self.policies.changing.lock().await;
        let is_new = self.policies().roles(pattern, subject).is_none();
        if is_new {
            let table = self.policies();
            if table.policies_in(pattern.namespace()) >= POLICIES_OF_ACCOUNT_MAX {
                return Err(too_many("policies for one account", POLICIES_OF_ACCOUNT_MAX));
            }
            if table.policies().count() >= POLICIES_MAX {
                return Err(too_many("policies", POLICIES_MAX));
            }
        }
        let record = PolicyRecord { roles };
        let key = policy_key(pattern, subject);
        let txn = Txn::new().put(key, store::encode(VERSION, &record));
        self.commit(txn, "store a policy").await?;
        self.change_table(|table| table.set_policy(pattern, subject, Some(record.roles)));
        Ok(())
    }

    /// Whether there was such a policy.
    pub async fn remove_policy(
        &self,
        pattern: &RepositoryPattern,
        subject: &Subject,
    ) -> Result<bool, Error> {
        let _changing = self.policies.changing.lock().await;
        let existed = self.policies().roles(pattern, subject).is_some();
        self.forget(|one, other| one == pattern && other == subject).await?;
        Ok(existed)
    }

    /// Removes the policies that name a robot account.
    pub async fn forget_robot(&self, user: &Tenant, robot: &CredentialName) -> Result<(), Error> {
        let _changing = self.policies.changing.lock().await;
        self.forget(|_, subject| *subject == Subject::Robot(user.clone(), robot.clone())).await
    }

    /// Takes an account out of teams and policies, so that the next of its name inherits nothing.
    /// Policies for its repositories go with these to another account, if they do.
    pub async fn forget_account(&self, name: &Tenant, heir: Option<&Tenant>) -> Result<(), Error> {
        let _changing = self.policies.changing.lock().await;
        let of_account = |subject: &Subject| match subject {
            Subject::Logins => false,
            Subject::User(user) | Subject::Robot(user, _) => user == name,
            Subject::Team(team) => team.account == *name,
        };
        self.forget(|_, subject| of_account(subject)).await?;
        if self.policies().is_operator(name) {
            self.put_operator(name, false).await?;
        }
        let teams: Vec<_> = self.policies().teams().collect();
        for TeamInfo { team, mut members } in teams {
            if team.account == *name {
                self.delete_team(&team).await?;
            } else if members.remove(name) {
                self.put_team(&team, &members).await?;
            }
        }
        if let Some(heir) = heir {
            let inherited: Vec<_> = self.policies().policies().collect();
            let inherited = inherited.into_iter().filter_map(|policy| {
                let rest = policy.repositories.as_str().strip_prefix(name.as_str())?;
                let pattern = format!("{heir}{}", rest.strip_prefix('/').map(|_| rest)?);
                Some((pattern.parse::<RepositoryPattern>().ok()?, policy))
            });
            for (pattern, PolicyInfo { subject, roles, .. }) in inherited {
                let record = store::encode(VERSION, &PolicyRecord { roles: roles.clone() });
                let txn = Txn::new().put(policy_key(&pattern, &subject), record);
                self.commit_deletion(txn, "hand over a policy").await?;
                self.change_table(|table| table.set_policy(&pattern, &subject, Some(roles)));
            }
        }
        self.forget(|pattern, _| pattern.namespace() == name.as_str()).await
    }

    /// Removes the policies that `goes` names.
    async fn forget(
        &self,
        goes: impl Fn(&RepositoryPattern, &Subject) -> bool,
    ) -> Result<(), Error> {
        let all: Vec<_> = self.policies().policies().collect();
        for PolicyInfo { repositories, subject, .. } in all {
            if goes(&repositories, &subject) {
                let txn = Txn::new().delete(policy_key(&repositories, &subject));
                self.commit_deletion(txn, "remove a policy").await?;
                self.change_table(|table| table.set_policy(&repositories, &subject, None));
            }
        }
        Ok(())
    }
}

fn too_many(what: &'static str, max: usize) -> PolicyError {
    PolicyError::TooMany { what, max }
}
