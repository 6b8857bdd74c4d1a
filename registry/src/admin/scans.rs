use http::Method;

use super::Admin;
use crate::{Error, SbomFormat, protocol::encode_query};

impl Admin {
    /// The bill of material of an image, named as `REPOSITORY:TAG` or `REPOSITORY@DIGEST`. It is
    /// read now when that has not been done.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is none that this client may read, and when it has several
    /// platforms and none is named.
    pub async fn sbom(
        &self,
        name: &str,
        format: SbomFormat,
        platform: Option<&str>,
    ) -> Result<Vec<u8>, Error> {
        let mut path = format!("/admin/sboms/{name}?format={}", format.name());
        if let Some(platform) = platform {
            path += &format!("&platform={}", encode_query(platform));
        }
        self.pass(Method::GET, &path, None).await.map(Into::into)
    }
}
