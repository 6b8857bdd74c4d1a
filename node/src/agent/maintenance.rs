//! What an agent does from time to time.

use tokio::time::{sleep, timeout};

use super::{
    adoption,
    control::ANSWER_TIME_MAX,
    join,
    limits::{RENEW_AFTER, SWEEP_EVERY},
    process::Agent,
};
use crate::error::{Error, Result, chain};

impl Agent {
    /// Renews the certificate, and removes what is not needed any more.
    pub(super) async fn maintain(&self) {
        loop {
            if join::age(&self.folder).is_some_and(|age| age > RENEW_AFTER)
                && let Err(error) = self.renew().await
            {
                tracing::warn!(error = chain(&error), "the certificate could not be renewed yet");
            }
            let (home, host, here) = (self.host.home.clone(), self.host.clone(), self.here());
            let swept = tokio::task::spawn_blocking(move || {
                adoption::sweep(&home, &here);
                host.cache.sweep();
            });
            let _ = swept.await;
            sleep(SWEEP_EVERY).await;
        }
    }

    async fn renew(&self) -> Result<()> {
        let control = self.control()?;
        let renewed =
            timeout(ANSWER_TIME_MAX, join::renew(&self.folder, &control, &self.identity)).await;
        let renewed = renewed.map_err(|_| Error::ControlPlane {
            address: self.identity.control_plane.clone(),
            why: "no answer in time".to_owned(),
        })??;
        self.host.ingress.write_identity(&renewed)
    }
}
