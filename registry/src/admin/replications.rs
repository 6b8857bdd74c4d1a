use http::Method;

use super::Admin;
use crate::{
    Error,
    protocol::{Delivery, NewReplication, ReplicationInfo, ReplicationName},
};

impl Admin {
    /// All replications.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn replications(&self) -> Result<Vec<ReplicationInfo>, Error> {
        self.get("/admin/replications").await
    }

    /// Creates a replication, or replaces it, and begins it with what is there.
    ///
    /// # Errors
    /// [`Error::Admin`] when its URL is none or may not be called, or it is about others'
    /// repositories.
    pub async fn create_replication(
        &self,
        name: &ReplicationName,
        replication: &NewReplication,
    ) -> Result<(), Error> {
        let path = format!("/admin/replications/{name}");
        self.call(Method::PUT, &path, Some(replication)).await.map(drop)
    }

    /// Compares everything once more, and pushes what the other registry lacks.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such replication.
    pub async fn sync_replication(&self, name: &ReplicationName) -> Result<(), Error> {
        let path = format!("/admin/replications/{name}");
        self.call(Method::POST, &path, None::<&()>).await.map(drop)
    }

    /// Ends a replication. What is at the other registry stays.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such replication.
    pub async fn remove_replication(&self, name: &ReplicationName) -> Result<(), Error> {
        self.delete(&format!("/admin/replications/{name}")).await
    }

    /// The last tries of a replication, the newest first.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such replication.
    pub async fn replication_log(&self, name: &ReplicationName) -> Result<Vec<Delivery>, Error> {
        self.get(&format!("/admin/replications/{name}")).await
    }
}
