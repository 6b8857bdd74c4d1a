use super::Admin;
use crate::{
    Error,
    protocol::{FoundImages, ImageInfo, ImageSearch},
};

impl Admin {
    /// What is in an image, named as `REPOSITORY:TAG` or `REPOSITORY@DIGEST`.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is none that this client may read.
    pub async fn image(&self, name: &str) -> Result<ImageInfo, Error> {
        self.get(&format!("/admin/images/{name}")).await
    }

    /// The images that this client may read, and of which everything is true that is searched for.
    ///
    /// # Errors
    /// [`Error::Admin`] when too many search at once.
    pub async fn search(&self, search: &ImageSearch) -> Result<FoundImages, Error> {
        self.get(&format!("/admin/images?{}", search.query())).await
    }
}
