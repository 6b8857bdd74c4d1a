use std::str::FromStr;

use spec::{EventList, ParseError};

use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        query,
    },
    limits::PAGE_MAX,
    plan::events::{EventQuery, events},
    state::now,
};

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    call.api.check_model()?;
    let wanted = EventQuery {
        cluster: key(&call, "cluster")?,
        service: key(&call, "service")?,
        task: key(&call, "task")?,
        node: key(&call, "node")?,
        certificate: key(&call, "certificate")?,
        since: key(&call, "since")?,
    };
    let items = events(&call.state().model(), call.tenant()?, &wanted, PAGE_MAX, now());
    Reply::ok(&EventList { items })
}

fn key<T: FromStr<Err = ParseError>>(call: &Call, name: &str) -> Result<Option<T>, ApiError> {
    match call.query(name) {
        Some(text) => Ok(Some(query::decoded(text)?.parse()?)),
        None => Ok(None),
    }
}
