use std::{sync::Arc, time::Duration};

use http::Method;
use net::{ApiClient, ApiRequest, ClientError, FrameBody, FrameStream};
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result, chain};

/// All but a long poll is answered at once, or the control plane is in trouble.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// A long poll is answered after 30 s at the latest.
pub(super) const POLL_TIME_MAX: Duration = Duration::from_secs(45);

/// After a failure to reach the control plane; it is back within two seconds, and thousands of
/// nodes wait for it.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(300);

/// The control plane as a node calls it.
pub(super) struct Control(ApiClient);

impl Control {
    pub fn new(address: &str, tls: Arc<ClientConfig>) -> Self {
        Self(ApiClient::tls(address, tls))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str, time_max: Duration) -> Result<T> {
        Ok(self.0.call(ApiRequest::new(Method::GET, path, time_max)).await?)
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let request = ApiRequest::new(Method::POST, path, ANSWER_TIME_MAX).json(body);
        Ok(self.0.call(request).await?)
    }

    /// Posts what has no answer, within `time_max`.
    pub async fn tell(&self, path: &str, body: &impl Serialize, time_max: Duration) -> Result<()> {
        let request = ApiRequest::new(Method::POST, path, time_max).json(body);
        Ok(self.0.call::<serde::de::IgnoredAny>(request).await.map(drop)?)
    }

    /// Takes up a stream that a client waits for.
    pub async fn open(&self, path: &str, body: FrameBody) -> Result<FrameStream> {
        let request = ApiRequest::new(Method::POST, path, ANSWER_TIME_MAX);
        Ok(self.0.open(request, Some(body)).await?)
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(fault) => Self::Refused(fault),
            ClientError::Connect { to, source } | ClientError::BrokenOff { to, source } => {
                Self::ControlPlane { address: to, why: chain(&source) }
            }
            ClientError::NoAnswer { to } => {
                Self::ControlPlane { address: to, why: "no answer in time".to_owned() }
            }
            ClientError::Answer { to, status, source } if status.is_success() => {
                Self::NotUnderstood { address: to, why: source.to_string() }
            }
            ClientError::Answer { ref to, .. } => {
                Self::ControlPlane { address: to.clone(), why: chain(&error) }
            }
        }
    }
}
