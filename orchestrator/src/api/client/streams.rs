use http::Method;
use net::{ApiRequest, FrameSender, FrameStream};
use spec::{ClusterName, ContainerName, ExecProgram, Frame, LogQuery, NodeId, ServiceName, TaskId};

use super::{ANSWER_TIME_MAX, Client};
use crate::{
    Error,
    api::{query::encoded, types::ServiceIngress},
};

impl Client {
    /// What a container of a task wrote, one frame for each line. The container may be left out
    /// where there is one.
    pub async fn logs(
        &self,
        task: &TaskId,
        container: Option<&ContainerName>,
        query: &LogQuery,
    ) -> Result<FrameStream, Error> {
        let container = container.map(|name| format!("&container={name}")).unwrap_or_default();
        let path = format!("/v1/tasks/{task}/logs?{}{container}", lines(query));
        self.open(Method::GET, &path, None).await
    }

    /// The nodes whose ingress answers for a service.
    pub async fn service_ingresses(
        &self,
        (cluster, service): (&ClusterName, &ServiceName),
    ) -> Result<Vec<ServiceIngress>, Error> {
        self.all(&format!("/v1/clusters/{cluster}/services/{service}/ingresses")).await
    }

    /// Which requests for a service the ingress of `node` has taken, one frame for each.
    pub async fn access_log(
        &self,
        (cluster, service): (&ClusterName, &ServiceName),
        node: &NodeId,
        query: &LogQuery,
    ) -> Result<FrameStream, Error> {
        let of = format!("/v1/clusters/{cluster}/services/{service}");
        let path = format!("{of}/access-log?{}&node={node}", lines(query));
        self.open(Method::GET, &path, None).await
    }

    /// What a container of a task uses: a record each second, until its end.
    pub async fn stats(
        &self,
        task: &TaskId,
        container: Option<&ContainerName>,
    ) -> Result<FrameStream, Error> {
        let path = with_container(&format!("/v1/tasks/{task}/stats?"), container);
        self.open(Method::GET, &path, None).await
    }

    /// Runs another program in a container of a task.
    pub async fn exec(
        &self,
        task: &TaskId,
        container: Option<&ContainerName>,
        program: ExecProgram,
    ) -> Result<(FrameSender, FrameStream), Error> {
        let (sender, body) = net::frame_body();
        let first = Frame::Program(Box::new(program));
        sender.offer(&first).expect("its body is not sent yet");
        let path = with_container(&format!("/v1/tasks/{task}/exec?"), container);
        Ok((sender, self.open(Method::POST, &path, Some(body)).await?))
    }

    /// A connection to a port of a container of a task.
    pub async fn forward(
        &self,
        task: &TaskId,
        container: Option<&ContainerName>,
        port: u16,
    ) -> Result<(FrameSender, FrameStream), Error> {
        let (sender, body) = net::frame_body();
        let path = with_container(&format!("/v1/tasks/{task}/forward?port={port}&"), container);
        Ok((sender, self.open(Method::POST, &path, Some(body)).await?))
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<net::FrameBody>,
    ) -> Result<FrameStream, Error> {
        let mut request = ApiRequest::new(method, path, ANSWER_TIME_MAX);
        if let Some(login) = &self.login {
            request = request.bearer(&login.token(&self.api).await?);
        }
        Ok(self.api.open(request, body).await?)
    }
}

/// Which lines are meant, as a query string.
fn lines(query: &LogQuery) -> String {
    let LogQuery { follow, tail, since, until, grep } = query;
    let mut text = format!("follow={follow}");
    let pairs = [
        ("tail", tail.map(|lines| lines.to_string())),
        ("since", since.map(|time| time.to_string())),
        ("until", until.map(|time| time.to_string())),
        ("grep", grep.clone()),
    ];
    for (name, value) in pairs {
        if let Some(value) = value {
            text.push_str(&format!("&{name}={}", encoded(&value)));
        }
    }
    text
}

fn with_container(path: &str, container: Option<&ContainerName>) -> String {
    let container = container.map(|name| format!("container={name}")).unwrap_or_default();
    format!("{path}{container}").trim_end_matches(['?', '&']).to_owned()
}
