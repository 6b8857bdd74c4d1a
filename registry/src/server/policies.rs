//! Teams and policies, for those that may manage them.

use http::{Method, StatusCode};
use spec::Tenant;

use super::{
    error::{ApiError, ErrorCode},
    quotas::check_account,
    remote::Administrator,
    request_body::RequestBody,
    response::{Response, empty, json},
};
use crate::{
    Error, Repository,
    access::{Object, Principal, Scopes, Situation, allowed, applies},
    account::{Account, Holder, RobotRecord},
    limits::TEAM_BODY_BYTES_MAX,
    protocol::{
        PolicyCheck, PolicyInfo, Query, RepositoryPattern, RolesBody, Subject, TeamChange, TeamName,
    },
    storage::{Metadata, PolicyError},
};

/// `/admin/teams`, `/admin/teams/ACCOUNT/TEAM`, `/admin/policies` and `/admin/policies/check`.
pub(super) async fn answer(
    metadata: &Metadata,
    administrator: &Administrator<'_>,
    method: &Method,
    path: &str,
    query: &Query,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    match (method, path) {
        (&Method::GET, "/admin/teams") => {
            let policies = metadata.policies();
            let seen = policies.teams().filter(|team| {
                administrator.may(&Object::Account(team.team.account.clone()), &policies)
            });
            Ok(json(StatusCode::OK, &seen.collect::<Vec<_>>()))
        }
        (&Method::GET, "/admin/policies") => {
            let policies = metadata.policies();
            let seen = policies.policies().filter(|policy| {
                administrator.may(&Object::Repositories(policy.repositories.clone()), &policies)
            });
            Ok(json(StatusCode::OK, &seen.collect::<Vec<_>>()))
        }
        (&Method::GET, "/admin/policies/check") => check(metadata, query).await,
        (_, "/admin/policies") => policy(metadata, method, query, body).await,
        _ => match path.strip_prefix("/admin/teams/") {
            Some(name) => team(metadata, method, name, body).await,
            None => Err(ApiError::no_such_endpoint()),
        },
    }
}

/// `/admin/operators/NAME`.
pub(super) async fn operator(
    metadata: &Metadata,
    method: &Method,
    name: &Tenant,
) -> Result<Response, ApiError> {
    match *method {
        Method::PUT => metadata.set_operator(name, true).await.map_err(refused)?,
        Method::DELETE if metadata.policies().is_operator(name) => {
            metadata.set_operator(name, false).await.map_err(refused)?;
        }
        Method::DELETE => {
            let message = format!("`{name}` is no operator");
            return Err(ApiError::not_found(ErrorCode::NameUnknown, message));
        }
        _ => return Err(ApiError::no_such_endpoint()),
    }
    Ok(empty(StatusCode::NO_CONTENT, []))
}

async fn team(
    metadata: &Metadata,
    method: &Method,
    name: &str,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    let name: TeamName = name.parse().map_err(ApiError::invalid_name)?;
    let absent =
        || ApiError::not_found(ErrorCode::NameUnknown, format!("there is no team `{name}`"));
    match *method {
        Method::PUT => {
            let change: TeamChange = body.json(TEAM_BODY_BYTES_MAX).await?;
            check_account(metadata, name.account.as_str()).await?;
            // One that only loses members is not made by that.
            if change.add.is_empty() && !change.remove.is_empty() {
                let members = metadata.policies().members(&name).cloned().ok_or_else(absent)?;
                if let Some(user) = change.remove.difference(&members).next() {
                    let message = format!("`{user}` is no member of team `{name}`");
                    return Err(ApiError::not_found(ErrorCode::NameUnknown, message));
                }
            }
            let info = metadata.change_team(&name, &change).await.map_err(refused)?;
            Ok(json(StatusCode::OK, &info))
        }
        Method::DELETE => match metadata.remove_team(&name).await? {
            true => Ok(empty(StatusCode::NO_CONTENT, [])),
            false => Err(absent()),
        },
        _ => Err(ApiError::no_such_endpoint()),
    }
}

/// `PUT` sets the roles of a subject in the repositories of a pattern, and `DELETE` takes them
/// away.
async fn policy(
    metadata: &Metadata,
    method: &Method,
    query: &Query,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    let repositories: RepositoryPattern = parameter(query, "repositories")?;
    let subject: Subject = parameter(query, "subject")?;
    match *method {
        Method::PUT => {
            let RolesBody { roles } = body.json(TEAM_BODY_BYTES_MAX).await?;
            if roles.is_empty() {
                let message = "a policy has one role or more";
                return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
            }
            check_subject(metadata, &subject).await?;
            let set = metadata.set_policy(&repositories, &subject, roles.clone()).await;
            set.map_err(refused)?;
            Ok(json(StatusCode::OK, &PolicyInfo { repositories, subject, roles }))
        }
        Method::DELETE => match metadata.remove_policy(&repositories, &subject).await? {
            true => Ok(empty(StatusCode::NO_CONTENT, [])),
            false => {
                let message = format!("there is no policy of `{repositories}` for `{subject}`");
                Err(ApiError::not_found(ErrorCode::NameUnknown, message))
            }
        },
        _ => Err(ApiError::no_such_endpoint()),
    }
}

async fn check_subject(metadata: &Metadata, subject: &Subject) -> Result<(), ApiError> {
    let is_there = match subject {
        Subject::Logins => true,
        Subject::User(user) => metadata.user(user).await?.is_some(),
        Subject::Robot(user, robot) => metadata.robot(user, robot).await?.is_some(),
        Subject::Team(team) => metadata.policies().members(team).is_some(),
    };
    let what = match subject {
        Subject::Team(_) => "team",
        Subject::Robot(..) => "robot account",
        Subject::Logins | Subject::User(_) => "user",
    };
    match is_there {
        true => Ok(()),
        false => {
            let message = format!("there is no {what} `{subject}`");
            Err(ApiError::not_found(ErrorCode::NameUnknown, message))
        }
    }
}

/// What a user or a robot account may do in a repository, decided as for its requests.
async fn check(metadata: &Metadata, query: &Query) -> Result<Response, ApiError> {
    let repository: Repository = parameter(query, "repository")?;
    let subject: Subject = parameter(query, "subject")?;
    check_subject(metadata, &subject).await?;
    let principal = principal_of(metadata, &subject).await?.ok_or_else(|| {
        let message = format!("`{subject}` is neither a user nor a robot account");
        ApiError::bad_request(ErrorCode::Unsupported, message)
    })?;
    let is_owner = match &principal {
        Principal::User { name, .. } => repository.belongs_to(name),
        Principal::Anonymous | Principal::Machine { .. } | Principal::ControlPlane => false,
    };
    let checked = metadata.situation(&repository, |situation: &Situation<'_>| {
        let of_it = situation.policies.of(&repository);
        let of_it =
            of_it.filter(|(_, subject, _)| applies(subject, &principal, situation.policies));
        PolicyCheck {
            allowed: allowed(&principal, situation).iter().collect(),
            is_owner,
            is_public: situation.is_public,
            policies: of_it
                .map(|(repositories, subject, roles)| PolicyInfo {
                    repositories: repositories.clone(),
                    subject: subject.clone(),
                    roles: roles.clone(),
                })
                .collect(),
        }
    });
    Ok(json(StatusCode::OK, &checked.await?))
}

/// A user or a robot account as it would be after a login.
async fn principal_of(metadata: &Metadata, subject: &Subject) -> Result<Option<Principal>, Error> {
    let of = |name: &Tenant, account, holder| Principal::User {
        name: name.clone(),
        account,
        holder: Some(holder),
        scopes: Scopes::All,
    };
    Ok(match subject {
        Subject::User(user) => Some(of(user, Account::of_user(user, ""), Holder::User)),
        Subject::Robot(user, robot) => metadata.robot(user, robot).await?.map(|record| {
            of(user, Account::of_robot(user, robot, &record), RobotRecord::holder(record))
        }),
        Subject::Logins | Subject::Team(_) => None,
    })
}

fn parameter<T: std::str::FromStr<Err: std::error::Error>>(
    query: &Query,
    name: &str,
) -> Result<T, ApiError> {
    let missing = || ApiError::bad_request(ErrorCode::Unsupported, format!("`{name}` is missing"));
    query.get(name).ok_or_else(missing)?.parse().map_err(ApiError::invalid_name)
}

pub(super) fn refused(error: PolicyError) -> ApiError {
    match error {
        PolicyError::TooMany { .. } => ApiError::conflict(error.to_string()),
        PolicyError::NoUser(_) => ApiError::not_found(ErrorCode::NameUnknown, error.to_string()),
        PolicyError::Failed(error) => error.into(),
    }
}
