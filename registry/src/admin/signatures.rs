use http::Method;

use super::Admin;
use crate::{
    Error, RepositoryPattern, VerifyingKey,
    protocol::{KeysBody, SignaturePolicy, encode_query},
};

impl Admin {
    /// Which keys must have signed what is pulled.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn signature_policies(&self) -> Result<Vec<SignaturePolicy>, Error> {
        self.get("/admin/signatures").await
    }

    /// Serves images of some repositories only when one of these keys has signed them.
    ///
    /// # Errors
    /// [`Error::Admin`] when there are too many keys, or none.
    pub async fn set_signature_policy(
        &self,
        repositories: &RepositoryPattern,
        keys: &[VerifyingKey],
    ) -> Result<(), Error> {
        let body = KeysBody { keys: keys.to_vec() };
        self.call(Method::PUT, &path(repositories), Some(&body)).await.map(drop)
    }

    /// Serves images of some repositories whether they are signed or not.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such policy.
    pub async fn remove_signature_policy(
        &self,
        repositories: &RepositoryPattern,
    ) -> Result<(), Error> {
        self.delete(&path(repositories)).await
    }
}

fn path(repositories: &RepositoryPattern) -> String {
    format!("/admin/signatures?repositories={}", encode_query(repositories.as_str()))
}
