use http::Method;
use spec::{CertificateName, SecretValue};

use super::Client;
use crate::{
    Certificate, CertificateOrder, Error,
    api::types::{CreateCertificate, ReplaceCertificate},
};

impl Client {
    /// A certificate of host names, in PEM, with its key.
    pub async fn create_certificate(
        &self,
        name: &CertificateName,
        chain_pem: String,
        key: SecretValue,
    ) -> Result<Certificate, Error> {
        let body = CreateCertificate { name: name.clone(), chain_pem, key };
        self.create("/v1/certificates", &body).await
    }

    /// Another one in its place.
    pub async fn replace_certificate(
        &self,
        name: &CertificateName,
        chain_pem: String,
        key: SecretValue,
    ) -> Result<Certificate, Error> {
        let body = ReplaceCertificate { chain_pem, key };
        self.send(Method::PATCH, &format!("/v1/certificates/{name}"), Some(&body)).await
    }

    /// Every certificate, without its key.
    pub async fn certificates(&self) -> Result<Vec<Certificate>, Error> {
        self.all("/v1/certificates").await
    }

    /// One certificate, without its key.
    pub async fn certificate(&self, name: &CertificateName) -> Result<Certificate, Error> {
        self.get(&format!("/v1/certificates/{name}")).await
    }

    /// Asks the authority for another certificate now.
    pub async fn renew_certificate(
        &self,
        name: &CertificateName,
    ) -> Result<CertificateOrder, Error> {
        let nothing = None::<&()>;
        self.send(Method::POST, &format!("/v1/certificates/{name}/renew"), nothing).await
    }

    /// Certificates that an authority is asked for.
    pub async fn certificate_orders(&self) -> Result<Vec<CertificateOrder>, Error> {
        self.all("/v1/certificate-orders").await
    }

    /// Removes a certificate.
    pub async fn remove_certificate(&self, name: &CertificateName) -> Result<(), Error> {
        self.delete(&format!("/v1/certificates/{name}")).await
    }
}
