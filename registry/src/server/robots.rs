use std::time::SystemTime;

use http::{Method, StatusCode};
use spec::{Tenant, Timestamp};

use super::{
    error::{ApiError, ErrorCode},
    quotas::check_account,
    remote::Administrator,
    request_body::RequestBody,
    response::{Response, empty, json},
};
use crate::{
    Repository,
    access::Object,
    account::{NewRobot, RobotRecord, robot_of},
    limits::{
        ADMIN_BODY_BYTES_MAX, ROBOT_REPOSITORIES_MAX, ROBOT_TIME_MAX, ROBOT_TIME_MIN,
        ROBOTS_PER_USER_MAX,
    },
    protocol::{RobotCredential, RobotInfo},
    storage::Metadata,
};

/// Robot accounts, for the owner of the data folder. `login` is empty for all of them.
pub(super) async fn answer(
    metadata: &Metadata,
    administrator: &Administrator<'_>,
    method: &Method,
    login: &str,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    if login.is_empty() {
        return match *method {
            Method::GET => list(metadata, administrator).await,
            _ => Err(ApiError::no_such_endpoint()),
        };
    }
    let (user, robot) = robot_of(login).ok_or_else(|| {
        let message = format!("`{login}` is not the name of a robot account: USER+ROBOT");
        ApiError::bad_request(ErrorCode::NameInvalid, message)
    })?;
    let absent = || {
        let message = format!("there is no robot account `{login}`");
        ApiError::not_found(ErrorCode::NameUnknown, message)
    };
    let now = Timestamp::of(SystemTime::now());
    match *method {
        Method::PUT => {
            let wanted: NewRobot = body.json(ADMIN_BODY_BYTES_MAX).await?;
            check(&user, &wanted)?;
            check_account(metadata, user.as_str()).await?;
            if metadata.robots(Some(&user)).await?.len() >= ROBOTS_PER_USER_MAX {
                let message = format!("`{user}` has {ROBOTS_PER_USER_MAX} robot accounts already");
                return Err(ApiError::conflict(message));
            }
            let (record, secret) = RobotRecord::new(wanted, now);
            match metadata.add_robot(&user, &robot, &record).await? {
                true => Ok(shown_once(login, &record, secret)),
                false => Err(ApiError::conflict(format!(
                    "there is a robot account `{login}` already: \
                     margay registry robot rotate {login}"
                ))),
            }
        }
        Method::POST => {
            let record = metadata.robot(&user, &robot).await?.ok_or_else(absent)?;
            let (record, secret) = record.with_fresh_secret(now);
            metadata.put_robot(&user, &robot, &record).await?;
            Ok(shown_once(login, &record, secret))
        }
        Method::DELETE => match metadata.remove_robot(&user, &robot).await? {
            true => Ok(empty(StatusCode::NO_CONTENT, [])),
            false => Err(absent()),
        },
        _ => Err(ApiError::no_such_endpoint()),
    }
}

async fn list(
    metadata: &Metadata,
    administrator: &Administrator<'_>,
) -> Result<Response, ApiError> {
    let (all, policies) = (metadata.robots(None).await?, metadata.policies());
    let seen = all
        .into_iter()
        .filter(|(user, ..)| administrator.may(&Object::Account(user.clone()), &policies));
    let robots = seen.map(|(user, robot, record)| RobotInfo {
        login: format!("{user}+{robot}"),
        scope: record.scope,
        repositories: record.repositories,
        created: record.created,
        expires: record.expires,
        last_used: record.last_used,
    });
    Ok(json(StatusCode::OK, &robots.collect::<Vec<_>>()))
}

fn check(user: &Tenant, wanted: &NewRobot) -> Result<(), ApiError> {
    let invalid = |message: String| ApiError::bad_request(ErrorCode::Unsupported, message);
    if !wanted.has_valid_lifetime() {
        let days = ROBOT_TIME_MAX.as_secs() / 86_400;
        return Err(invalid(format!(
            "a robot account holds for {} seconds to {days} days",
            ROBOT_TIME_MIN.as_secs()
        )));
    }
    if wanted.repositories.len() > ROBOT_REPOSITORIES_MAX {
        let message =
            format!("a robot account names at most {ROBOT_REPOSITORIES_MAX} repositories");
        return Err(invalid(message));
    }
    for name in &wanted.repositories {
        let repository = name.parse::<Repository>().map_err(ApiError::invalid_name)?;
        if !repository.belongs_to(user) {
            return Err(invalid(format!("`{repository}` is not a repository of `{user}`")));
        }
    }
    Ok(())
}

fn shown_once(login: &str, record: &RobotRecord, secret: String) -> Response {
    let made = RobotCredential { login: login.to_owned(), secret, expires: record.expires };
    json(StatusCode::OK, &made)
}
