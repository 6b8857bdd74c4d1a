use std::{
    io,
    time::{Duration, Instant},
};

use http::Method;
use net::{ApiClient, ApiRequest};
use tokio::sync::Mutex;

use super::ANSWER_TIME_MAX;
use crate::{
    Error,
    api::types::{AccessTokenAnswer, Credential, IssueToken},
};

/// A token is renewed so long before its end: longer than a request is on its way.
const RENEWED_BEFORE: Duration = Duration::from_secs(60);

/// Stores the credential that takes the place of one without a name.
type Keep = Box<dyn Fn(&Credential) -> io::Result<()> + Send + Sync>;

/// A credential, and the access token that was issued for it last.
pub(super) struct Login {
    state: Mutex<State>,
    keep: Keep,
}

struct State {
    credential: Credential,
    token: Option<(String, Instant)>,
}

impl Login {
    pub fn new(credential: Credential, keep: Keep) -> Self {
        Self { state: Mutex::new(State { credential, token: None }), keep }
    }

    /// A token that holds for a while. Requests at one time wait for the same one.
    pub async fn token(&self, api: &ApiClient) -> Result<String, Error> {
        let mut state = self.state.lock().await;
        if let Some((token, renew_at)) = &state.token
            && Instant::now() < *renew_at
        {
            return Ok(token.clone());
        }
        let Credential { tenant, name, secret, .. } = state.credential.clone();
        let wanted = IssueToken { tenant, credential: name, secret };
        let request = ApiRequest::new(Method::POST, "/v1/access-tokens", ANSWER_TIME_MAX);
        let answer: AccessTokenAnswer = api.call(request.json(&wanted)).await?;
        if let Some(credential) = answer.taken_over {
            (self.keep)(&credential).map_err(|source| Error::Credential { source })?;
            state.credential = credential;
        }
        let lifetime = Duration::from_secs(answer.expires_in_seconds);
        let renew_at = Instant::now() + lifetime.saturating_sub(RENEWED_BEFORE);
        state.token = Some((answer.token.clone(), renew_at));
        Ok(answer.token)
    }
}
