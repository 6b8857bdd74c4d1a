use http::Method;
use serde_json::json;

use super::Admin;
use crate::{
    Advisory, Error, FindingSearch, FoundFindings, Imported, RepositoryPattern, SbomFormat,
    ScanPolicy, ScanReports, ScanRule, VulnerabilityData,
    protocol::{AdvisoriesBody, ImportInfo, ImportedBody, encode_query},
};

const VULNERABILITIES: &str = "/admin/vulnerabilities";

/// An import of vulnerability data that has begun.
#[derive(Debug)]
pub struct VulnerabilityImport {
    path: String,
}

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

    /// The vulnerabilities of an image, named as `REPOSITORY:TAG` or `REPOSITORY@DIGEST`, or of
    /// those of an index.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is none that this client may read.
    pub async fn scan(&self, name: &str) -> Result<ScanReports, Error> {
        self.read(self.pass(Method::GET, &format!("/admin/scans/{name}"), None).await?)
    }

    /// Findings of the images that this client may read.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn findings(&self, search: &FindingSearch) -> Result<FoundFindings, Error> {
        self.get(&format!("/admin/findings?{}", search.query())).await
    }

    /// The vulnerability data that the registry has.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn vulnerability_data(&self) -> Result<VulnerabilityData, Error> {
        self.get(VULNERABILITIES).await
    }

    /// Begins to replace the data of some ecosystems.
    ///
    /// # Errors
    /// [`Error::Admin`] when another import goes on.
    pub async fn begin_import(&self) -> Result<VulnerabilityImport, Error> {
        let begun = self.call(Method::POST, VULNERABILITIES, None::<&()>).await?;
        let ImportInfo { import } = self.read(begun)?;
        Ok(VulnerabilityImport { path: format!("{VULNERABILITIES}/{import}") })
    }

    /// Adds to an import.
    ///
    /// # Errors
    /// [`Error::Admin`] when there are too many, and when another import has begun.
    pub async fn stage_vulnerabilities(
        &self,
        import: &VulnerabilityImport,
        advisories: Vec<Advisory>,
    ) -> Result<(), Error> {
        let body = AdvisoriesBody { advisories };
        self.call(Method::PUT, &import.path, Some(&body)).await.map(drop)
    }

    /// Puts an import in the place of what there was of its ecosystems, and compares all images
    /// with it. Updates read `urls` again.
    ///
    /// # Errors
    /// [`Error::Admin`] when another import has begun.
    pub async fn commit_import(
        &self,
        import: VulnerabilityImport,
        urls: &[String],
    ) -> Result<Imported, Error> {
        let body = ImportedBody { urls: urls.to_vec() };
        let body = json!(body);
        self.read(self.pass(Method::POST, &import.path, Some(body)).await?)
    }

    /// Gives up an import: what there was stays.
    ///
    /// # Errors
    /// [`Error::Admin`] when another import has begun.
    pub async fn abort_import(&self, import: VulnerabilityImport) -> Result<(), Error> {
        self.delete(&import.path).await
    }

    /// For what images are refused.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn scan_policies(&self) -> Result<Vec<ScanPolicy>, Error> {
        self.get("/admin/scan-policies").await
    }

    /// Refuses images of some repositories for what a scan has found.
    ///
    /// # Errors
    /// [`Error::Admin`] when there are too many policies or waivers.
    pub async fn set_scan_policy(
        &self,
        repositories: &RepositoryPattern,
        rule: &ScanRule,
    ) -> Result<(), Error> {
        self.call(Method::PUT, &policy_path(repositories), Some(rule)).await.map(drop)
    }

    /// Serves images of some repositories whatever a scan has found.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such policy.
    pub async fn remove_scan_policy(&self, repositories: &RepositoryPattern) -> Result<(), Error> {
        self.delete(&policy_path(repositories)).await
    }
}

fn policy_path(repositories: &RepositoryPattern) -> String {
    format!("/admin/scan-policies?repositories={}", encode_query(repositories.as_str()))
}
