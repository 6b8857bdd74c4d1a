//! The certificates of hosts that this node's ingress serves: asked for when a route names one that
//! is not here, and written for the ingress alone.

use std::{collections::BTreeSet, sync::Arc};

use spec::wire::{self, CertificatePair, DesiredSet, RouteCertificate};
use tokio::{sync::watch, time::sleep};

use super::{
    control::{ANSWER_TIME_MAX, RETRY_AFTER},
    process::Agent,
};
use crate::{
    error::{Error, Result, chain},
    files,
    ingress::{HostCertificate, HostCertificates},
};

impl Agent {
    /// Follows the routes. What cannot be fetched now is asked for again.
    pub(super) async fn keep_host_certificates(
        &self,
        mut sets: watch::Receiver<Option<Arc<DesiredSet>>>,
    ) {
        loop {
            let wanted: Option<BTreeSet<RouteCertificate>> = sets
                .borrow_and_update()
                .as_ref()
                .map(|set| set.routes.certificates.values().cloned().collect());
            let kept = match &wanted {
                Some(wanted) => self.fetch_host_certificates(wanted).await,
                None => Ok(()),
            };
            let again = async {
                match &kept {
                    Ok(()) => std::future::pending().await,
                    Err(error) => {
                        let error = chain(error);
                        tracing::warn!(error, "a certificate of a host is not here yet");
                        sleep(RETRY_AFTER).await;
                    }
                }
            };
            tokio::select! {
                changed = sets.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }

    /// Brings the file of the ingress to what is wanted, one missing pair after the other. The last
    /// error is told when all were tried.
    async fn fetch_host_certificates(&self, wanted: &BTreeSet<RouteCertificate>) -> Result<()> {
        let folder = &self.host.ingress;
        let known: Option<HostCertificates> = files::read_json(&folder.certificates_file())?;
        let before = known.unwrap_or_default();
        let mut pairs = Vec::with_capacity(wanted.len());
        let mut failed = Ok(());
        for certificate in wanted {
            let known = before.pairs.iter().find(|known| known.certificate == *certificate);
            match known {
                Some(known) => pairs.push(known.clone()),
                None => match self.ask_for_certificate(certificate).await {
                    Ok(pair) => pairs.push(pair),
                    Err(error) => {
                        // The one before is better than none.
                        let same = |known: &&HostCertificate| {
                            let known = &known.certificate;
                            (&known.tenant, &known.name) == (&certificate.tenant, &certificate.name)
                        };
                        pairs.extend(before.pairs.iter().find(same).cloned());
                        failed = Err(error);
                    }
                },
            }
        }
        let after = HostCertificates { pairs, ..HostCertificates::default() };
        if after != before {
            tracing::info!(certificates = after.pairs.len(), "certificates of hosts changed");
            folder.write_certificates(&after)?;
        }
        failed
    }

    async fn ask_for_certificate(&self, wanted: &RouteCertificate) -> Result<HostCertificate> {
        let control = self.control()?;
        let path = format!("/v1/node/certificates/{}/{}", wanted.tenant, wanted.name);
        let wrong =
            |why: String| Error::ControlPlane { address: self.identity.control_plane.clone(), why };
        let CertificatePair { version, chain_pem, key } =
            control.get(&path, ANSWER_TIME_MAX).await?;
        wire::check_version("the answer about a certificate", version)
            .map_err(|error| wrong(error.to_string()))?;
        let key_pem = String::from_utf8(key.expose().to_vec())
            .map_err(|_| wrong(format!("the key of certificate `{}` is no text", wanted.name)))?;
        let leaf =
            net::tls::certificates(&chain_pem).ok().and_then(|chain| chain.into_iter().next());
        match leaf.is_some_and(|leaf| net::tls::fingerprint(&leaf) == wanted.fingerprint) {
            true => Ok(HostCertificate { certificate: wanted.clone(), chain_pem, key_pem }),
            false => Err(wrong(format!("certificate `{}` has changed meanwhile", wanted.name))),
        }
    }
}
