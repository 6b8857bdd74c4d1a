use crate::api::{
    call::{Call, Reply},
    error::ApiError,
    types::Health,
};

pub(crate) async fn health(call: Call) -> Result<Reply, ApiError> {
    let revision = call.state().status().await?.rev;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Reply::ok(&Health { version, epoch: call.state().epoch.number, revision })
}

pub(crate) async fn openapi(call: Call) -> Result<Reply, ApiError> {
    Reply::ok(&call.api.document)
}

pub(crate) async fn routes(call: Call) -> Result<Reply, ApiError> {
    let tenant = call.tenant()?;
    call.api.check_model()?;
    Reply::ok(&*call.api.node_watch.routes_of(tenant))
}
