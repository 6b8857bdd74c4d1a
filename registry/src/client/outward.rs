use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use std::{collections::HashSet, time::Duration};

use super::{
    options::{ClientOptions, Reach},
    origin::Origin,
    transport::{Activity, Transport, USER_AGENT, body},
};
use crate::{Error, ProtocolFault};

/// Requests of a server to URLs that its clients name.
pub(crate) struct Outward {
    public: Transport,
    anywhere: Transport,
}

impl Outward {
    pub fn new(time_max: Duration) -> Self {
        let transport = |reach| {
            Transport::new(&ClientOptions {
                reach,
                idle_time_max: time_max,
                ..ClientOptions::default()
            })
        };
        let public = Reach::Public { registries: HashSet::new(), networks: Vec::new() };
        Self { public: transport(public), anywhere: transport(Reach::Anywhere) }
    }

    /// Posts to `url`, which is at a public address unless it may be at an internal one. Redirects
    /// are not followed, and the body of the answer is not read.
    ///
    /// # Errors
    /// As for every request of a client.
    pub async fn post(
        &self,
        url: &Uri,
        may_be_internal: bool,
        headers: impl IntoIterator<Item = (HeaderName, String)>,
        bytes: Bytes,
    ) -> Result<StatusCode, Error> {
        let unusable = |what| Error::Protocol {
            registry: url.to_string(),
            source: ProtocolFault::NotSendable { what },
        };
        let origin = Origin::of_uri(url).ok_or_else(|| unusable("URL"))?;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::post(path).body(body(bytes)).map_err(|_| unusable("URL"))?;
        let fields = request.headers_mut();
        fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for (name, value) in headers {
            let value = HeaderValue::from_str(&value).map_err(|_| unusable("header"))?;
            fields.insert(name, value);
        }
        let transport = if may_be_internal { &self.anywhere } else { &self.public };
        let sent = transport.send(&origin, "an event", request, &Activity::default()).await?;
        Ok(sent.status())
    }
}
