use std::{sync::Mutex, time::Duration};

use http::StatusCode;
use serde_json::json;
use spec::Timestamp;
use store::{Query, SqliteStore, Store, Txn};

use super::fixture::{TestControlPlane, client};
use crate::{
    Client, CreateCredential, Credential, CredentialScope,
    state::{
        credentials::CredentialRecord,
        keys, now,
        records::{decode, encode},
        tokens,
    },
};

fn wanted(name: &str, tenant: Option<&str>, scope: CredentialScope) -> CreateCredential {
    CreateCredential {
        name: name.parse().unwrap(),
        tenant: tenant.map(|tenant| tenant.parse().unwrap()),
        scope,
        lifetime_seconds: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_makes_others_within_its_own_rights_alone() {
    use CredentialScope::{Deploy, Read};
    let plane = TestControlPlane::start().await;
    let other = plane.client_of("other").await;
    for (name, tenant, want) in [("ci", None, None), ("bad", Some("acme"), Some("forbidden"))] {
        let made = other.create_credential(&wanted(name, tenant, Deploy)).await;
        assert_eq!(made.err().and_then(|e| Some(e.fault()?.code.clone())).as_deref(), want);
    }
    let again = other.create_credential(&wanted("ci", None, Read)).await.err().unwrap();
    assert_eq!(again.to_string(), "a credential `ci` is there already");
    let deployer = client(plane.credential_of("other", Deploy).await);
    let error = deployer.create_credential(&wanted("x", None, Deploy)).await.err().unwrap();
    assert!(error.hint().unwrap().ends_with("has the scope `deploy`, and this needs `manage`"));
    for (seconds, good) in [
        (59, false),
        (60, true),
        (366 * 86_400, true),
        (366 * 86_400 + 1, false),
        (u64::MAX, false),
    ] {
        let wanted = CreateCredential {
            lifetime_seconds: Some(seconds),
            ..wanted(&format!("t{seconds}"), None, Read)
        };
        assert_eq!(other.create_credential(&wanted).await.is_ok(), good, "{seconds}");
    }
    // Each sees its own, the operator sees all, and none sees a secret.
    let own = other.credentials().await.unwrap();
    assert!(own.iter().all(|credential| credential.tenant.as_str() == "other"));
    let all = plane.client.credentials().await.unwrap();
    assert!(all.len() > own.len() && all.iter().any(|c| c.tenant.as_str() == "acme"));
    let (_, listed) = plane.raw("GET", "/v1/credentials", None, b"").await;
    assert!(!listed.to_string().contains("secret"), "{listed}");
    let (acme, operator) = ("acme".parse().unwrap(), "operator".parse().unwrap());
    for refused in [
        other.remove_credential(&acme, &operator).await.err(),
        other.rotate_credential(&acme, &operator).await.err(),
    ] {
        assert_eq!(refused.unwrap().to_string(), "there is no credential `operator`");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_or_rotated_credential_is_refused_with_the_next_request() {
    let plane = TestControlPlane::start().await;
    let credential = plane.credential_of("other", CredentialScope::Manage).await;
    let name = credential.name.clone().unwrap();
    let access = plane.access_token(&credential).await;
    let ask = async |token: &str| plane.raw_tls("GET", "/v1/principal", Some(token), b"").await;
    assert_eq!(ask(&access).await.1["credential"], json!(name.as_str()));
    assert_eq!(ask(&credential.secret).await.0, StatusCode::UNAUTHORIZED, "no bearer token");
    let listed = plane.client.credentials().await.unwrap();
    let shown = listed.iter().find(|shown| shown.name == name).unwrap();
    assert!(now().since(shown.last_used.unwrap()) < Duration::from_secs(60));
    let rotated = plane.client.rotate_credential(&credential.tenant, &name).await.unwrap();
    assert_ne!(rotated.secret, credential.secret);
    assert_eq!(ask(&access).await.0, StatusCode::UNAUTHORIZED);
    let error = client(credential.clone()).clusters().await.unwrap_err();
    let unknown = Credential { name: Some("nothing".parse().unwrap()), ..credential.clone() };
    let same = client(unknown).clusters().await.unwrap_err();
    assert_eq!(error.to_string(), same.to_string(), "a guess learns nothing");
    let holder = client(rotated);
    holder.clusters().await.unwrap();
    plane.client.remove_credential(&credential.tenant, &name).await.unwrap();
    assert_eq!(holder.clusters().await.unwrap_err().fault().unwrap().code, "unauthenticated");
    // The next of this name is another one.
    plane
        .client
        .create_credential(&wanted(name.as_str(), Some("other"), CredentialScope::Read))
        .await
        .unwrap();
    assert_eq!(ask(&access).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_ends_with_its_time_and_the_operators_is_made_anew() {
    let mut plane = TestControlPlane::start().await;
    let other = plane.credential_of("other", CredentialScope::Manage).await;
    let (access, before) = (plane.access_token(&other).await, plane.credential());
    plane.end().await;
    // As if time had passed: only the store knows when it was made.
    let store = SqliteStore::open(&plane.folder.path().join("server/store.db")).unwrap();
    let found = store.range(Query::prefix(keys::CREDENTIALS)).await.unwrap();
    assert_eq!(found.kvs.len(), 2);
    for kv in &found.kvs {
        let mut record: CredentialRecord = decode(kv).unwrap();
        let past = now().millis() - 16 * 24 * 3_600_000;
        record.created = Timestamp::from_millis(past);
        if record.tenant.as_str() == "other" {
            record.expires = Timestamp::from_millis(now().millis() - 1);
        }
        store.txn(Txn::new().put(kv.key.to_string(), encode(&record))).await.unwrap();
    }
    drop(store);
    plane.restart().await;
    let (status, _) = plane.raw_tls("GET", "/v1/principal", Some(&access), b"").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(client(other).clusters().await.is_err());
    assert_ne!(plane.credential().secret, before.secret, "half of its time was over");
    assert!(client(before).clusters().await.is_err());
    client(plane.credential()).clusters().await.unwrap();
    // Rotated, it is in the file at once.
    let operator = plane.credential();
    let name = operator.name.clone().unwrap();
    let made = plane.client.rotate_credential(&operator.tenant, &name).await.unwrap();
    assert!(made == plane.credential() && made != operator);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_of_an_earlier_release_works_once_and_is_taken_over() {
    let mut plane = TestControlPlane::start().await;
    plane.end().await;
    let old = tokens::random_hex();
    let store = SqliteStore::open(&plane.folder.path().join("server/store.db")).unwrap();
    let key = format!("{}{}", keys::UNNAMED_CREDENTIALS, tokens::hashed(&old));
    let record = encode(&json!({ "tenant": "other", "created": now() }));
    store.txn(Txn::new().put(key, record)).await.unwrap();
    drop(store);
    plane.restart().await;
    let file = json!({
        "address": plane.credential().address, "tenant": "other", "token": old,
        "ca_fingerprint": plane.credential().ca_fingerprint,
    });
    let file: Credential = serde_json::from_value(file).unwrap();
    // An answer that is lost before it is stored can be had again.
    let lost = Client::tls(file.clone(), |_| Err(std::io::ErrorKind::StorageFull.into()));
    let error = lost.clusters().await.unwrap_err();
    assert!(error.to_string().starts_with("cannot store the credential"), "{error}");
    let kept = std::sync::Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let taking_over = Client::tls(file.clone(), move |made| {
        *keep.lock().unwrap() = Some(made.clone());
        Ok(())
    });
    let caller = taking_over.principal().await.unwrap();
    assert_eq!((caller.tenant.as_str(), caller.operator), ("other", false));
    let kept = kept.lock().unwrap().clone().unwrap();
    assert_ne!(kept.secret, old);
    client(kept).clusters().await.unwrap();
    // Its successor was used: now it is worth nothing.
    let error = Client::tls(file, |_| Ok(())).clusters().await.unwrap_err();
    assert_eq!(error.fault().unwrap().code, "credential");
}
