use std::collections::BTreeSet;

use http::Method;
use spec::Tenant;

use super::Admin;
use crate::{
    Error, OrganisationInfo, PolicyCheck, PolicyInfo, Repositories, Repository, RepositoryPattern,
    Role, Subject, TeamChange, TeamInfo, TeamName,
    protocol::{RolesBody, encode_query},
};

impl Admin {
    /// All organisations.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn organisations(&self) -> Result<Vec<OrganisationInfo>, Error> {
        self.get("/admin/organisations").await
    }

    /// Adds an organisation, the owner of the repositories `NAME/…`.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is an account of this name, or repositories of an earlier one.
    pub async fn add_organisation(&self, name: &Tenant) -> Result<(), Error> {
        let path = format!("/admin/organisations/{name}");
        self.call(Method::PUT, &path, None::<&()>).await.map(drop)
    }

    /// Removes an organisation with its robot accounts, teams and policies.
    ///
    /// # Errors
    /// [`Error::Admin`] as for [`Admin::remove_user`].
    pub async fn remove_organisation(
        &self,
        name: &Tenant,
        then: &Repositories,
    ) -> Result<(), Error> {
        self.delete(&format!("/admin/organisations/{name}{}", then.query())).await
    }

    /// All teams.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn teams(&self) -> Result<Vec<TeamInfo>, Error> {
        self.get("/admin/teams").await
    }

    /// Changes the members of a team, which is made if there is none.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such account or user.
    pub async fn change_team(
        &self,
        team: &TeamName,
        change: &TeamChange,
    ) -> Result<TeamInfo, Error> {
        let path = format!("/admin/teams/{team}");
        self.read(self.call(Method::PUT, &path, Some(change)).await?)
    }

    /// Removes a team with the policies that name it.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such team.
    pub async fn remove_team(&self, team: &TeamName) -> Result<(), Error> {
        self.delete(&format!("/admin/teams/{team}")).await
    }

    /// All policies.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn policies(&self) -> Result<Vec<PolicyInfo>, Error> {
        self.get("/admin/policies").await
    }

    /// Sets what a subject may do in the repositories of a pattern.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such subject.
    pub async fn set_policy(
        &self,
        repositories: &RepositoryPattern,
        subject: &Subject,
        roles: &BTreeSet<Role>,
    ) -> Result<PolicyInfo, Error> {
        let body = RolesBody { roles: roles.clone() };
        let path = policy(repositories, subject);
        self.read(self.call(Method::PUT, &path, Some(&body)).await?)
    }

    /// Takes away what the policy of this pattern gives to a subject.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such policy.
    pub async fn remove_policy(
        &self,
        repositories: &RepositoryPattern,
        subject: &Subject,
    ) -> Result<(), Error> {
        self.delete(&policy(repositories, subject)).await
    }

    /// What a user or robot account may do in a repository, and why.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such account.
    pub async fn check_policy(
        &self,
        subject: &Subject,
        repository: &Repository,
    ) -> Result<PolicyCheck, Error> {
        let subject = encode_query(&subject.to_string());
        self.get(&format!("/admin/policies/check?subject={subject}&repository={repository}")).await
    }
}

fn policy(repositories: &RepositoryPattern, subject: &Subject) -> String {
    let repositories = encode_query(repositories.as_str());
    let subject = encode_query(&subject.to_string());
    format!("/admin/policies?repositories={repositories}&subject={subject}")
}
