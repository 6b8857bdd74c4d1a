use http::Method;

use super::{Admin, Request};
use crate::{
    Error,
    limits::ADMIN_ANSWER_TIME_MAX,
    protocol::{Delivery, NewWebhook, WebhookInfo, WebhookName, WebhookSecret},
};

impl Admin {
    /// All webhooks.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn webhooks(&self) -> Result<Vec<WebhookInfo>, Error> {
        self.get("/admin/webhooks").await
    }

    /// Creates a webhook, or replaces it, and returns the secret of its signatures.
    ///
    /// # Errors
    /// [`Error::Admin`] when its URL may not be called, or it is about others' repositories.
    pub async fn create_webhook(
        &self,
        name: &WebhookName,
        webhook: &NewWebhook,
    ) -> Result<WebhookSecret, Error> {
        let path = format!("/admin/webhooks/{name}");
        self.read(self.call(Method::PUT, &path, Some(webhook)).await?)
    }

    /// Removes a webhook with the events that wait for it.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such webhook.
    pub async fn remove_webhook(&self, name: &WebhookName) -> Result<(), Error> {
        self.delete(&format!("/admin/webhooks/{name}")).await
    }

    /// Sends an event that is about nothing.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such webhook.
    pub async fn test_webhook(&self, name: &WebhookName) -> Result<Delivery, Error> {
        let path = format!("/admin/webhooks/{name}");
        let request = Request::new(Method::POST, &path, ADMIN_ANSWER_TIME_MAX);
        self.read(self.send(request).await?)
    }

    /// The last tries of a webhook, the newest first.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such webhook.
    pub async fn deliveries(&self, name: &WebhookName) -> Result<Vec<Delivery>, Error> {
        self.get(&format!("/admin/webhooks/{name}")).await
    }
}
