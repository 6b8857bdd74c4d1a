use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use blobs::{BlobStore, BlobWriter, FileBlobStore, collect};
use registry::{Auth, BlobSink, Client, ClientOptions, Entries, PullOptions, Reach};
use spec::{Descriptor, Digest, Host, Reference, Tenant};

use crate::{
    error::{Error, Result, chain},
    home::{Home, PULLED},
    images::{blobs_of, native_platforms, plan, prune_unpacked},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetch {
    /// Its layers, or what was made of them.
    IfNotPrepared,
    /// Its layers.
    Everything,
}

/// Compressed blobs and prepared images together, before the least recently used go. No image is
/// larger.
pub const CACHE_BYTES_MAX: u64 = 10 << 30;

/// What native images unpack to, before the least recently used layers go.
const UNPACKED_BYTES_MAX: u64 = 10 << 30;

/// `TENANT/pulled/blobs/ALGORITHM/HEX` is the deepest file.
const DEPTH_MAX: usize = 5;

/// Images on their way in, of all tenants.
#[derive(Debug)]
pub(super) struct Cache {
    home: Home,
    bundled: Option<String>,
    authorities: Vec<Vec<u8>>,
    /// Internal networks that registries may be in.
    networks: Vec<Host>,
    fetches: Mutex<HashMap<(Tenant, Digest), FetchLock>>,
}

/// Held by the task that fetches one image; other tasks wait and find the image here.
type FetchLock = Arc<tokio::sync::Mutex<()>>;

/// Images of one tenant: each pulled once, however many tasks wait for it.
#[derive(Debug)]
pub(super) struct TenantCache<'a> {
    all: &'a Cache,
    tenant: &'a Tenant,
    prepared: PathBuf,
}

impl Cache {
    /// `bundled` is the registry of the platform, `host:port`. On another machine it speaks TLS,
    /// with a certificate of one of `authorities`.
    pub fn new(
        home: &Home,
        bundled: Option<String>,
        authorities: Vec<Vec<u8>>,
        networks: Vec<Host>,
    ) -> Self {
        Self { home: home.clone(), bundled, authorities, networks, fetches: Mutex::default() }
    }

    /// What `tenant` has pulled.
    pub fn of<'a>(&'a self, tenant: &'a Tenant) -> TenantCache<'a> {
        TenantCache { all: self, tenant, prepared: self.home.prepared(tenant.as_str()) }
    }

    /// With what to pull `reference`: the token, where it is one of that registry's.
    fn auth(&self, reference: &Reference, token: Option<&str>) -> Option<(String, Auth)> {
        let registry =
            reference.registry().filter(|registry| Some(*registry) == self.bundled.as_deref())?;
        Some((registry.to_owned(), Auth::Token(token?.to_owned())))
    }

    fn client(&self, reference: &Reference, token: Option<&str>) -> Client {
        Client::new(ClientOptions {
            auth: BTreeMap::from_iter(self.auth(reference, token)),
            authorities: self.authorities.clone(),
            reach: Reach::Public {
                registries: HashSet::from_iter(self.bundled.clone()),
                networks: self.networks.clone(),
            },
            ..ClientOptions::default()
        })
    }

    /// Removes the least recently used files above the limit, and so with unpacked layers of native
    /// images. What runs has its files open, and keeps them.
    pub fn sweep(&self) {
        self.sweep_to(CACHE_BYTES_MAX);
        if let Err(error) = prune_unpacked(&self.home, UNPACKED_BYTES_MAX) {
            tracing::warn!(error = chain(&error), "unpacked layers could not be removed");
        }
    }

    fn sweep_to(&self, bytes_max: u64) {
        // Unpacked layers have a limit of their own.
        let files = collect::files_below(&self.home.all_prepared(), DEPTH_MAX, "native");
        let candidates = collect::least_recently_used(files, bytes_max);
        let (_, result) = collect::sweep(candidates, |path| collect::remove_file(path));
        if let Err(error) = result {
            tracing::warn!(error = chain(&error), "cached files could not be removed");
        }
    }
}

impl TenantCache<'_> {
    pub fn blobs(&self) -> FileBlobStore {
        blobs_of(&self.prepared.join(PULLED))
    }

    /// Brings the image here, if it is not. `image` is how the definition names it, `digest` what
    /// that meant. `token` opens the bundled registry, and no other hears of it.
    pub async fn fetch(
        &self,
        image: &str,
        digest: &Digest,
        token: Option<&str>,
        what: Fetch,
    ) -> Result<()> {
        let lock = {
            let mut fetches = self.all.fetches.lock().unwrap_or_else(PoisonError::into_inner);
            fetches.retain(|_, lock| Arc::strong_count(lock) > 1);
            fetches.entry((self.tenant.clone(), *digest)).or_default().clone()
        };
        let _lock = lock.lock().await;
        if plan(&self.blobs(), image, digest).is_ok_and(|plan| self.has_enough(&plan, what)) {
            return Ok(());
        }
        let failed = |why: String, hint| Error::Fetch { image: image.to_owned(), why, hint };
        let reference: Reference =
            image.parse().map_err(|error: spec::ParseError| failed(error.to_string(), None))?;
        let reference = match (reference.registry(), &self.all.bundled) {
            (None, Some(bundled)) => reference.at(Some(bundled.clone())),
            _ => reference,
        };
        let reference = reference.pinned(*digest);
        let client = self.all.client(&reference, token);
        let sink = Arc::new(Sink::new(self.blobs()));
        let choose = |index: &spec::Index| {
            image::choose(index, &native_platforms())
                .map(|entry| vec![entry.clone()])
                .unwrap_or_default()
        };
        let options =
            PullOptions { entries: Entries::Chosen(Arc::new(choose)), ..PullOptions::default() };
        client
            .pull(&reference, sink, &options)
            .await
            .map(drop)
            .map_err(|error| failed(chain(&error), error.hint()))
    }

    fn has_enough(&self, plan: &image::Plan, what: Fetch) -> bool {
        let blobs = self.blobs();
        let made = || self.prepared.join(plan.manifest.hex()).join("prepared.json").exists();
        (what == Fetch::IfNotPrepared && made())
            || plan
                .layers
                .iter()
                .all(|layer| blobs.contains(&layer.descriptor.digest).unwrap_or(false))
    }
}

/// Takes the blobs of one pulled image in, up to as many bytes as the cache keeps.
struct Sink {
    blobs: FileBlobStore,
    /// Bytes that the image may still have.
    left: AtomicU64,
}

impl Sink {
    fn new(blobs: FileBlobStore) -> Self {
        Self { blobs, left: CACHE_BYTES_MAX.into() }
    }
}

impl BlobSink for Sink {
    fn has(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest).unwrap_or(false)
    }

    fn create(&self, blob: &Descriptor) -> io::Result<BlobWriter> {
        let take = |left: u64| left.checked_sub(blob.size);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            let most = spec::print_bytes(CACHE_BYTES_MAX);
            return Err(io::Error::other(format!(
                "the image has more than {most}, and a node keeps no more"
            )));
        }
        Ok(self.blobs.writer(blob.digest.algorithm())?)
    }
}

/// Removes what a killed agent was pulling.
pub(super) fn sweep_incoming(home: &Home) {
    for tenant in fs::read_dir(home.all_prepared()).into_iter().flatten().flatten() {
        if let Err(error) = blobs_of(&tenant.path().join(PULLED)).remove_unfinished() {
            tracing::warn!(error = chain(&error), "unfinished blobs could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        time::SystemTime,
    };

    use super::*;
    use spec::MediaType;

    #[test]
    fn the_least_recently_used_files_go_first_and_unfinished_pulls_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let cache = Cache::new(&home, None, Vec::new(), Vec::new());
        let long_ago = SystemTime::now() - std::time::Duration::from_secs(1_000_000);
        for (name, bytes, used_after_secs) in [
            ("pulled/blobs/sha256/a", 100, 1),
            ("layers/b", 100, 3),
            ("c/code", 100, 2),
            ("pulled/incoming/d", 50, 0),
            ("native/boot-1/e", 1000, 0),
        ] {
            let path = home.prepared("acme").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vec![0; bytes]).unwrap();
            let used = long_ago + std::time::Duration::from_secs(used_after_secs);
            let times = fs::FileTimes::new().set_accessed(used).set_modified(used);
            File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        }
        let left = || {
            let mut files = collect::files_below(&home.all_prepared(), DEPTH_MAX, "native");
            files.sort();
            files
                .iter()
                .map(|file| file.key.file_name().unwrap().to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        for (bytes_max, want) in [
            (350, vec!["d", "a", "code", "b"]),
            (349, vec!["a", "code", "b"]),
            (200, vec!["code", "b"]),
            (199, vec!["b"]),
            (0, vec![]),
        ] {
            cache.sweep_to(bytes_max);
            assert_eq!(left(), want, "{bytes_max}");
        }
        assert!(
            home.prepared("acme").join("native/boot-1/e").exists(),
            "those are another cache's"
        );
    }

    #[test]
    fn blobs_that_one_tenant_has_pulled_are_missing_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let cache = Cache::new(&home, None, Vec::new(), Vec::new());
        let [ann, bob]: [Tenant; 2] = ["ann", "bob"].map(|name| name.parse().unwrap());
        let blob = Descriptor::of("", b"mine");
        let sink = Sink::new(cache.of(&ann).blobs());
        let mut writer = sink.create(&blob).unwrap();
        writer.write_all(b"mine").unwrap();
        writer.commit().unwrap();
        assert!(sink.has(&blob.digest) && cache.of(&ann).blobs().contains(&blob.digest).unwrap());
        assert!(!cache.of(&bob).blobs().contains(&blob.digest).unwrap());
        assert!(!Sink::new(cache.of(&bob).blobs()).has(&blob.digest));
    }

    #[test]
    fn the_token_of_the_bundled_registry_goes_to_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let cache = Cache::new(&home, Some("10.0.0.1:5000".to_owned()), Vec::new(), Vec::new());
        for (reference, token, sent) in [
            ("10.0.0.1:5000/acme/cats", Some("secret"), true),
            ("10.0.0.1:5000/acme/cats", None, false),
            ("10.0.0.1:5001/acme/cats", Some("secret"), false),
            ("ghcr.io/acme/cats", Some("secret"), false),
        ] {
            let auth = cache.auth(&reference.parse().unwrap(), token);
            assert_eq!(auth.is_some(), sent, "{reference} {token:?}");
        }
    }

    #[test]
    fn a_blob_is_visible_and_durable_when_it_is_committed_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let sink = Sink::new(blobs_of(folder.path()));
        let digest = Digest::of(b"cats");
        let blob: Descriptor = serde_json::from_value(serde_json::json!({
            "mediaType": MediaType::WASM, "digest": digest.to_string(), "size": 4
        }))
        .unwrap();
        let mut writer = sink.create(&blob).unwrap();
        writer.write_all(b"ca").unwrap();
        drop(writer);
        assert!(!sink.has(&digest));
        assert_eq!(fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
        let mut writer = sink.create(&blob).unwrap();
        writer.write_all(b"cats").unwrap();
        let (committed, steps) = disk::trace(|| writer.commit_as(&digest));
        committed.unwrap();
        blobs::conformance::assert_synced(&steps);
        assert!(sink.has(&digest));
        let mut bytes = Vec::new();
        sink.blobs.open(&digest, 0).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"cats");
    }

    #[test]
    fn an_image_that_is_larger_than_the_cache_is_refused_before_its_bytes_come() {
        let folder = tempfile::tempdir().unwrap();
        let sink = Sink::new(blobs_of(folder.path()));
        let blob = |size| Descriptor { size, ..Descriptor::of("", b"") };
        drop(sink.create(&blob(CACHE_BYTES_MAX - 1)).unwrap());
        let error = sink.create(&blob(2)).err().unwrap();
        assert_eq!(error.to_string(), "the image has more than 10GiB, and a node keeps no more");
        assert!(sink.create(&blob(1)).is_ok());
        assert!(sink.create(&blob(u64::MAX)).is_err());
    }
}
