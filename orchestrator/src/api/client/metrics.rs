use http::Method;
use spec::{ClusterName, MetricName, ServiceName};

use super::Client;
use crate::{
    Error,
    api::types::{PutMetric, ReportedMetric},
};

impl Client {
    /// Reports a metric that a service scales by.
    pub async fn put_metric(
        &self,
        (cluster, service): (&ClusterName, &ServiceName),
        metric: &MetricName,
        value: u32,
    ) -> Result<(), Error> {
        let path = format!("/v1/clusters/{cluster}/services/{service}/metrics/{metric}");
        let body = PutMetric { value };
        self.send::<serde_json::Value>(Method::PUT, &path, Some(&body)).await.map(drop)
    }

    /// What was reported lately of the metrics that a service scales by.
    pub async fn metrics(
        &self,
        (cluster, service): (&ClusterName, &ServiceName),
    ) -> Result<Vec<ReportedMetric>, Error> {
        self.all(&format!("/v1/clusters/{cluster}/services/{service}/metrics")).await
    }
}
