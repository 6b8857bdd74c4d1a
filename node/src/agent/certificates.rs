//! The certificates of a node and of its ingress, renewed at half of their time.

use std::path::Path;

use tokio::time::{sleep, timeout};

use super::{
    control::{ANSWER_TIME_MAX, RETRY_AFTER},
    join,
    limits::{CERTIFICATES_EVERY, RENEW_AFTER},
    process::Agent,
};
use crate::{
    error::{Error, Result, chain},
    identity::{Identity, IngressIdentity},
};

impl Agent {
    /// Keeps the certificates good. The ingress of a node that has just joined, or comes from an
    /// earlier version, has none yet.
    pub(super) async fn keep_certificates(&self) {
        loop {
            let renewed = match timeout(ANSWER_TIME_MAX, self.renew_certificates()).await {
                Ok(renewed) => renewed,
                Err(_) => Err(Error::ControlPlane {
                    address: self.identity.control_plane.clone(),
                    why: "no answer in time".to_owned(),
                }),
            };
            match renewed {
                Ok(()) => sleep(CERTIFICATES_EVERY).await,
                Err(error) if self.ingress_has_certificate() => {
                    tracing::warn!(error = chain(&error), "a certificate is not renewed yet");
                    sleep(CERTIFICATES_EVERY).await;
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "the ingress has no certificate yet");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn renew_certificates(&self) -> Result<()> {
        let ingress = &self.host.ingress;
        let is_old = |path: &Path| join::age(path).is_some_and(|age| age > RENEW_AFTER);
        if !self.ingress_has_certificate() || is_old(&ingress.identity_file()) {
            let identity = join::certify_ingress(&self.control()?, self.node()).await?;
            ingress.write_identity(&identity)?;
        }
        let known = Identity::read(&self.folder.identity())?;
        let was_the_ingress = known.is_some_and(|known| known.was_the_ingress());
        if was_the_ingress || is_old(&self.folder.identity()) {
            join::renew(&self.folder, &self.control()?, &self.identity).await?;
        }
        if was_the_ingress {
            // The certificate that asks stays good until the next renewal: so twice.
            join::renew(&self.folder, &self.control()?, &self.identity).await?;
        }
        Ok(())
    }

    /// Whether the ingress has a certificate of this node and this platform.
    fn ingress_has_certificate(&self) -> bool {
        let known = IngressIdentity::read(&self.host.ingress.identity_file()).ok().flatten();
        known.is_some_and(|known| {
            known.node == self.identity.node && known.ca_pem == self.identity.ca_pem
        })
    }
}
