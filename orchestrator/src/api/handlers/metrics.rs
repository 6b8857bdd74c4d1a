use spec::MetricName;

use super::services;
use crate::api::{
    call::{Call, Reply},
    error::ApiError,
    types::{ListPage, PutMetric, ReportedMetric},
};

/// Takes the place of what was reported before. One that no target names is refused: it would be
/// reported for nothing.
pub(crate) async fn put(call: Call) -> Result<Reply, ApiError> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    let metric: MetricName = call.param("metric")?;
    let PutMetric { value } = call.json()?;
    let record = services::find(&call, &cluster, &name).await?.value;
    let mut own = record.service.spec.scaling.iter().flat_map(|scaling| scaling.own_metrics());
    if !own.any(|own| *own == metric) {
        let message = format!("service `{name}` does not scale by metric `{metric}`");
        return Err(ApiError::invalid(message).hint(format!(
            "give it bounds and a target: margay service update {name} --cluster {cluster} \
             --scale 1..10 --target metric:{metric}=NUMBER"
        )));
    }
    call.state().metrics.put((call.tenant()?.clone(), cluster, name), metric, value);
    call.state().wake_reconciler();
    Reply::done()
}

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    services::find(&call, &cluster, &name).await?;
    let metrics = call.state().metrics.of(&(call.tenant()?.clone(), cluster, name));
    let metrics = metrics.into_iter().map(|(metric, reported)| ReportedMetric {
        metric,
        value: reported.value,
        at: reported.label,
    });
    Reply::ok(&ListPage { items: metrics.collect(), next: None })
}
