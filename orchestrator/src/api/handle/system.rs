use crate::{
    api::Health,
    call::{Call, Reply},
    error::Refusal,
    routes,
};

pub(crate) async fn health(call: Call) -> Result<Reply, Refusal> {
    let revision = call.app.store.status().await?.rev;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Reply::ok(&Health { version, epoch: call.app.epoch.number, revision })
}

pub(crate) async fn openapi(_: Call) -> Result<Reply, Refusal> {
    Reply::ok(&routes::openapi())
}

pub(crate) async fn routes(call: Call) -> Result<Reply, Refusal> {
    let tenant = call.tenant()?;
    call.app.check_model()?;
    let model = call.app.model.read();
    Reply::ok(&call.app.route_table(&model, |owner| owner == tenant))
}
