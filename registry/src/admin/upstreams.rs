use http::Method;
use spec::Tenant;

use super::Admin;
use crate::{
    Error,
    protocol::{NewUpstream, UpstreamInfo},
};

impl Admin {
    /// All upstreams.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn upstreams(&self) -> Result<Vec<UpstreamInfo>, Error> {
        self.get("/admin/upstreams").await
    }

    /// Creates an upstream, or replaces it. Its name becomes an organisation if there is none.
    ///
    /// # Errors
    /// [`Error::Admin`] when its URL is none, or its name is that of a user.
    pub async fn create_upstream(
        &self,
        name: &Tenant,
        upstream: &NewUpstream,
    ) -> Result<(), Error> {
        let path = format!("/admin/upstreams/{name}");
        self.call(Method::PUT, &path, Some(upstream)).await.map(drop)
    }

    /// Fetches nothing more of an upstream. What is kept stays.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such upstream.
    pub async fn remove_upstream(&self, name: &Tenant) -> Result<(), Error> {
        self.delete(&format!("/admin/upstreams/{name}")).await
    }
}
