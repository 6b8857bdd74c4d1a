//! Organisations, teams and policies, in memory: every request to a repository asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use spec::{Tenant, Timestamp};

use crate::{
    Repository,
    protocol::{
        OrganisationInfo, PolicyInfo, RepositoryPattern, Role, Subject, TeamInfo, TeamName,
    },
};

/// Organisations, teams and policies as they are at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct PolicyTable {
    /// Users that administer the registry over the network.
    operators: BTreeSet<Tenant>,
    organisations: BTreeMap<Tenant, Timestamp>,
    teams: BTreeMap<TeamName, BTreeSet<Tenant>>,
    /// By the first component of the names that they cover.
    policies: BTreeMap<String, BTreeMap<(RepositoryPattern, Subject), BTreeSet<Role>>>,
}

#[derive(Default)]
pub(crate) struct Policies {
    table: RwLock<PolicyTable>,
    /// Held by each change from what it reads to what it writes.
    pub changing: tokio::sync::Mutex<()>,
}

impl Policies {
    pub fn read(&self) -> RwLockReadGuard<'_, PolicyTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change(&self, change: impl FnOnce(&mut PolicyTable)) {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl PolicyTable {
    pub fn is_operator(&self, user: &Tenant) -> bool {
        self.operators.contains(user)
    }

    pub fn operators(&self) -> impl Iterator<Item = &Tenant> {
        self.operators.iter()
    }

    pub fn set_operator(&mut self, user: &Tenant, is: bool) {
        match is {
            true => self.operators.insert(user.clone()),
            false => self.operators.remove(user),
        };
    }

    pub fn is_organisation(&self, name: &Tenant) -> bool {
        self.organisations.contains_key(name)
    }

    pub fn is_member(&self, user: &Tenant, team: &TeamName) -> bool {
        self.teams.get(team).is_some_and(|members| members.contains(user))
    }

    /// The policies that cover a repository.
    pub fn of<'a>(
        &'a self,
        repository: &'a Repository,
    ) -> impl Iterator<Item = (&'a RepositoryPattern, &'a Subject, &'a BTreeSet<Role>)> {
        let namespace = repository.as_str().split_once('/').map_or("", |(first, _)| first);
        let policies = self.policies.get(namespace).into_iter().flatten();
        policies
            .map(|((pattern, subject), roles)| (pattern, subject, roles))
            .filter(|(pattern, ..)| pattern.covers(repository))
    }

    /// The policies about all repositories that a pattern covers.
    pub fn administering(
        &self,
        pattern: &RepositoryPattern,
    ) -> impl Iterator<Item = (&Subject, &BTreeSet<Role>)> {
        let policies = self.policies.get(pattern.namespace()).into_iter().flatten();
        policies
            .filter(|((own, _), _)| own.includes(pattern))
            .map(|((_, subject), roles)| (subject, roles))
    }

    /// What the policy of exactly this pattern gives to a subject.
    pub fn roles(&self, pattern: &RepositoryPattern, subject: &Subject) -> Option<&BTreeSet<Role>> {
        self.policies.get(pattern.namespace())?.get(&(pattern.clone(), subject.clone()))
    }

    pub fn organisations(&self) -> impl Iterator<Item = OrganisationInfo> {
        let all = self.organisations.iter();
        all.map(|(name, created)| OrganisationInfo { name: name.clone(), created: *created })
    }

    /// The members of a team, if there is one.
    pub fn members(&self, team: &TeamName) -> Option<&BTreeSet<Tenant>> {
        self.teams.get(team)
    }

    /// How many policies there are for the names that begin with one component.
    pub fn policies_in(&self, namespace: &str) -> usize {
        self.policies.get(namespace).map_or(0, BTreeMap::len)
    }

    pub fn teams(&self) -> impl Iterator<Item = TeamInfo> {
        let all = self.teams.iter();
        all.map(|(team, members)| TeamInfo { team: team.clone(), members: members.clone() })
    }

    pub fn policies(&self) -> impl Iterator<Item = PolicyInfo> {
        self.policies.values().flatten().map(|((repositories, subject), roles)| PolicyInfo {
            repositories: repositories.clone(),
            subject: subject.clone(),
            roles: roles.clone(),
        })
    }

    pub fn set_organisation(&mut self, name: &Tenant, created: Option<Timestamp>) {
        match created {
            Some(created) => drop(self.organisations.insert(name.clone(), created)),
            None => drop(self.organisations.remove(name)),
        }
    }

    pub fn set_team(&mut self, team: &TeamName, members: Option<BTreeSet<Tenant>>) {
        match members {
            Some(members) => drop(self.teams.insert(team.clone(), members)),
            None => drop(self.teams.remove(team)),
        }
    }

    pub fn set_policy(
        &mut self,
        pattern: &RepositoryPattern,
        subject: &Subject,
        roles: Option<BTreeSet<Role>>,
    ) {
        let key = (pattern.clone(), subject.clone());
        let of_namespace = self.policies.entry(pattern.namespace().to_owned()).or_default();
        match roles {
            Some(roles) => drop(of_namespace.insert(key, roles)),
            None => drop(of_namespace.remove(&key)),
        }
    }
}
