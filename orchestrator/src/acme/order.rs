use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use spec::{HostName, Timestamp, wire::HttpChallenge};

use super::error::OrderError;
use crate::{
    limits::ACME_DECISION_TIME_MAX,
    state::{chain::Chain, now},
};

/// What is asked again within one order: 0.5, 1, 2, 4 s apart and so on.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(2.0)
    .timeout(ACME_DECISION_TIME_MAX);

/// Longer ones are no tokens: 128 bits in base64 are 22 letters.
const TOKEN_CHARS_MAX: usize = 256;

/// A certificate with its key, in PEM.
pub(super) struct Issued {
    pub chain_pem: String,
    pub key_pem: String,
    pub chain: Chain,
}

/// An order at the authority, up to the proof that is asked for.
pub(super) struct Begun {
    order: Order,
    host: HostName,
}

impl Begun {
    pub async fn with(account: &Account, host: &HostName) -> Result<Self, OrderError> {
        let identifiers = [Identifier::Dns(host.to_string())];
        let order = account.new_order(&NewOrder::new(&identifiers)).await?;
        Ok(Self { order, host: host.clone() })
    }

    /// What the authority will ask an ingress, unless it knows already that the host is here.
    pub async fn challenge(&mut self) -> Result<Option<HttpChallenge>, OrderError> {
        let mut authorizations = self.order.authorizations();
        let Some(authorization) = authorizations.next().await else { return Ok(None) };
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            return Ok(None);
        }
        let challenge = authorization.challenge(ChallengeType::Http01);
        let challenge = challenge.ok_or_else(|| OrderError::NoHttpChallenge(self.host.clone()))?;
        let token = challenge.token.clone();
        let is_token =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !(1..=TOKEN_CHARS_MAX).contains(&token.len()) || !is_token(&token) {
            return Err(OrderError::Token);
        }
        let key_authorization = challenge.key_authorization().as_str().to_owned();
        Ok(Some(HttpChallenge { token, key_authorization }))
    }

    /// Says that the ingresses answer it, and waits for the verdict.
    pub async fn prove(&mut self) -> Result<(), OrderError> {
        if let Some(authorization) = self.order.authorizations().next().await {
            let mut authorization = authorization?;
            if let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) {
                challenge.set_ready().await?;
            }
        }
        let decided = self.order.poll_ready(&POLLS).await;
        match decided {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) | Err(instant_acme::Error::Api(_)) => Err(self.why(decided.err()).await),
            Err(error) => Err(error.into()),
        }
    }

    /// What the authority has found in the place of the proof.
    async fn why(&mut self, error: Option<instant_acme::Error>) -> OrderError {
        if let Some(Ok(mut authorization)) = self.order.authorizations().next().await
            && let Ok(state) = authorization.refresh().await
            && let Some(problem) = state.challenges.iter().find_map(|one| one.error.clone())
        {
            return OrderError::Unproven { host: self.host.clone(), problem };
        }
        error.map_or(OrderError::Undecided, OrderError::from)
    }

    /// The certificate, judged as one that a client uploads: by the time when it is here, as it is
    /// good from its signature on.
    pub async fn finish(mut self) -> Result<Issued, OrderError> {
        let key_pem = self.order.finalize().await?;
        let chain_pem = self.order.poll_certificate(&POLLS).await?;
        judged(&self.host, chain_pem, key_pem, now())
    }
}

/// What an authority has issued for `host`, if it can be shown to the clients of `host`.
fn judged(
    host: &HostName,
    chain_pem: String,
    key_pem: String,
    now: Timestamp,
) -> Result<Issued, OrderError> {
    let chain = Chain::read(&chain_pem, &key_pem, now).map_err(OrderError::Chain)?;
    if chain.hosts != [host.clone()] {
        let issued: Vec<String> = chain.hosts.iter().map(|name| format!("`{name}`")).collect();
        return Err(OrderError::OtherName { host: host.clone(), issued: issued.join(", ") });
    }
    Ok(Issued { chain_pem, key_pem, chain })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn issued(names: &[&str], change: impl Fn(&mut CertificateParams)) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (mut params, key) =
            (CertificateParams::new(names).unwrap(), KeyPair::generate().unwrap());
        change(&mut params);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_an_authority_issues_is_taken_when_it_is_for_the_host_and_good() {
        let host: HostName = "shop.example".parse().unwrap();
        let good = issued(&["shop.example"], |_| {});
        let other = issued(&["evil.example"], |_| {});
        let more = issued(&["shop.example", "evil.example"], |_| {});
        let expired = issued(&["shop.example"], |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        });
        for (what, chain, key, want) in [
            ("good", &good.0, &good.1, ""),
            ("for another name", &other.0, &other.1, "is for `evil.example`, not for"),
            ("for more names", &more.0, &more.1, "is for `shop.example`, `evil.example`, not"),
            ("expired", &expired.0, &expired.1, "has expired on"),
            ("another key", &good.0, &other.1, "the key is not that of the certificate"),
            ("nothing", &String::new(), &good.1, "has no certificate in PEM"),
        ] {
            let judged = judged(&host, chain.clone(), key.clone(), now());
            let said = judged.err().map_or_else(String::new, |error| error.sentence());
            assert_eq!(said.is_empty(), want.is_empty(), "{what}: {said}");
            assert!(said.contains(want), "{what}: {said}");
        }
    }
}
