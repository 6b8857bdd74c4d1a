use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::origin::Origin;

/// Values of `Authorization`, by origin and scopes, until they expire.
#[derive(Default)]
pub(super) struct Credentials(Mutex<HashMap<Key, (String, Instant)>>);

/// Origin and scopes.
pub(super) type Key = (Origin, String);

impl Credentials {
    pub fn get(&self, key: &Key) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (credential, until) = known.get(key)?;
        (Instant::now() < *until).then(|| credential.clone())
    }

    pub fn insert(&self, key: Key, credential: String, lifetime: Duration) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|_, (_, until)| now < *until);
        known.insert(key, (credential, now + lifetime));
    }
}
