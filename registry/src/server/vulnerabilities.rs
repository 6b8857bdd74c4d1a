//! Imports of vulnerability data: begun, sent in parts, and ended at once for all requests.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use http::{Method, StatusCode};
use spec::Timestamp;

use super::{
    error::{ApiError, ErrorCode},
    request_body::RequestBody,
    response::{Response, empty, json},
    scanner::Scanner,
};
use crate::{
    blocking,
    limits::{
        ADMIN_BODY_BYTES_MAX, ADVISORIES_BODY_BYTES_MAX, ADVISORIES_PER_BODY_MAX, AFFECTED_MAX,
        IMPORT_IDLE_MAX, VULNERABILITY_URLS_MAX,
    },
    protocol::{AdvisoriesBody, ImportInfo, Imported, ImportedBody, VulnerabilityData},
    scan::stale,
};

pub(super) struct VulnerabilityEndpoints {
    pub scanner: Scanner,
    /// The import that goes on, and when it was last heard of.
    pub import: Mutex<Option<(String, Instant)>>,
}

impl VulnerabilityEndpoints {
    /// `/admin/vulnerabilities` and `/admin/vulnerabilities/IMPORT`.
    pub async fn answer(
        &self,
        method: &Method,
        import: &str,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        match (method, import) {
            (&Method::GET, "") => Ok(json(StatusCode::OK, &self.data().await?)),
            (&Method::POST, "") => self.begin().await,
            (&Method::PUT, import) if !import.is_empty() => self.stage(import, body).await,
            (&Method::DELETE, import) => {
                self.touch(import)?;
                *self.import.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(empty(StatusCode::NO_CONTENT, []))
            }
            (&Method::POST, import) => self.commit(import, body).await,
            _ => Err(ApiError::no_such_endpoint()),
        }
    }

    /// The data that there is, and which is too old.
    pub async fn data(&self) -> Result<VulnerabilityData, ApiError> {
        let database = Arc::clone(&self.scanner.database);
        let mut data = blocking(move || database.data()).await?;
        let now = Timestamp::of(SystemTime::now());
        for one in &mut data.ecosystems {
            one.stale = stale(one.imported, one.modified, now);
        }
        Ok(data)
    }

    async fn begin(&self) -> Result<Response, ApiError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).expect("the system has random numbers");
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        {
            let mut import = self.import.lock().unwrap_or_else(PoisonError::into_inner);
            if import.as_ref().is_some_and(|(_, last)| last.elapsed() < IMPORT_IDLE_MAX) {
                let message = "another import of vulnerability data is under way: try again later";
                return Err(ApiError::conflict(message));
            }
            *import = Some((id.clone(), Instant::now()));
        }
        let database = Arc::clone(&self.scanner.database);
        blocking(move || database.begin_import()).await?;
        Ok(json(StatusCode::CREATED, &ImportInfo { import: id }))
    }

    async fn stage(&self, import: &str, body: &mut RequestBody) -> Result<Response, ApiError> {
        self.touch(import)?;
        let AdvisoriesBody { advisories } = body.json(ADVISORIES_BODY_BYTES_MAX).await?;
        if advisories.len() > ADVISORIES_PER_BODY_MAX
            || advisories.iter().any(|advisory| advisory.affected.len() > AFFECTED_MAX)
        {
            let message = format!(
                "a part has at most {ADVISORIES_PER_BODY_MAX} vulnerabilities, each of at most \
                 {AFFECTED_MAX} packages"
            );
            return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
        }
        self.touch(import)?;
        let database = Arc::clone(&self.scanner.database);
        blocking(move || database.stage(&advisories)).await?;
        Ok(empty(StatusCode::NO_CONTENT, []))
    }

    async fn commit(&self, import: &str, body: &mut RequestBody) -> Result<Response, ApiError> {
        let ImportedBody { urls } = body.json(ADMIN_BODY_BYTES_MAX).await?;
        if urls.len() > VULNERABILITY_URLS_MAX {
            let message = format!("an import has at most {VULNERABILITY_URLS_MAX} URLs");
            return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
        }
        self.touch(import)?;
        let database = Arc::clone(&self.scanner.database);
        let now = Timestamp::of(SystemTime::now());
        let changed = blocking(move || database.commit_import(&urls, now)).await;
        *self.import.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let images = self.scanner.tell_found(changed?).await?;
        Ok(json(StatusCode::OK, &Imported { data: self.data().await?, images }))
    }

    /// Whether this is the import that goes on.
    fn touch(&self, id: &str) -> Result<(), ApiError> {
        let mut import = self.import.lock().unwrap_or_else(PoisonError::into_inner);
        match import.as_mut().filter(|(known, _)| known == id) {
            Some((_, last)) => {
                *last = Instant::now();
                Ok(())
            }
            None => {
                let message = "there is no such import, or another has begun: import again";
                Err(ApiError::not_found(ErrorCode::NameUnknown, message))
            }
        }
    }
}
