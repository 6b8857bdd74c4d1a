//! Tags, manifests, blobs and repositories are deleted, also where a disk is full.

use http::StatusCode;
use spec::{Digest, MediaType};

use super::{
    disk::SmallDisk,
    fixture::{TestRegistry, noise},
};
use crate::{Error, Repository};

/// A manifest of these blobs, which are in the repository already.
pub fn manifest_of(blobs: &[&[u8]]) -> String {
    let link = |bytes: &&[u8]| {
        let digest = Digest::of(bytes);
        format!(r#"{{"mediaType":"text/plain","digest":"{digest}","size":{}}}"#, bytes.len())
    };
    let (config, layers) = (link(&blobs[0]), blobs[1..].iter().map(link).collect::<Vec<_>>());
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{}]}}"#,
        MediaType::OCI_MANIFEST,
        layers.join(",")
    )
}

impl TestRegistry {
    /// `request` with a token for `repository`: status and code of the answer.
    pub async fn ask(&self, repository: &str, request: &str) -> (u16, String) {
        let bearer = format!("Bearer {}", self.token(repository));
        let answer = self.request(request, &[("authorization", &bearer)], "").await;
        (answer.status.as_u16(), answer.code())
    }

    /// Pushes an image of these blobs.
    pub async fn push_image(&self, repository: &str, tag: &str, blobs: &[&[u8]]) -> Digest {
        for blob in blobs {
            self.push_blob(repository, blob).await;
        }
        let bearer = format!("Bearer {}", self.token(repository));
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/vnd.oci.image.manifest.v1+json"),
        ];
        let (manifest, request) =
            (manifest_of(blobs), format!("PUT /v2/{repository}/manifests/{tag}"));
        let answer = self.request(&request, &headers, manifest.clone()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.bytes);
        Digest::of(manifest.as_bytes())
    }
}

fn repository(name: &str) -> Repository {
    name.parse().unwrap()
}

#[tokio::test]
async fn a_blob_that_a_manifest_names_is_not_deleted_before_the_manifest() {
    let server = TestRegistry::open().await;
    let image = server.push_image("ann/cats", "v1", &[b"{}", b"layer"]).await;
    server.push_image("ann/dogs", "v1", &[b"{}", b"layer"]).await;
    let spare = server.push_blob("ann/cats", b"spare").await;
    let layer = Digest::of(b"layer");
    for blob in [layer, Digest::of(b"{}")] {
        let path = format!("/v2/ann/cats/blobs/{blob}");
        assert_eq!(server.ask("ann/cats", &format!("DELETE {path}")).await, (409, "DENIED".into()));
        assert_eq!(server.ask("ann/cats", &format!("HEAD {path}")).await.0, 200);
    }
    for (path, want) in [
        (format!("blobs/{spare}"), 202),
        (format!("manifests/{image}"), 202),
        (format!("blobs/{layer}"), 202),
        (format!("blobs/{layer}"), 404),
    ] {
        let request = format!("DELETE /v2/ann/cats/{path}");
        assert_eq!(server.ask("ann/cats", &request).await.0, want, "{request}");
    }
    let other = server.ask("ann/dogs", &format!("HEAD /v2/ann/dogs/blobs/{layer}")).await;
    assert_eq!(other.0, 200, "another repository keeps it");
    drop(server.close().await);
}

#[tokio::test]
async fn the_administrator_lists_and_deletes_tags_manifests_and_repositories() {
    let server = TestRegistry::open().await;
    let (admin, cats) = (&server.admin, repository("ann/cats"));
    let one = server.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    let two = server.push_image("ann/cats", "v2", &[b"{}", b"two"]).await;
    server.push_image("ann/cats", "latest", &[b"{}", b"two"]).await;
    let tags = admin.tags(&cats).await.unwrap();
    let found: Vec<_> = tags.iter().map(|tag| (tag.tag.as_str(), tag.digest)).collect();
    assert_eq!(found, [("latest", two), ("v1", one), ("v2", two)]);
    assert!(tags.iter().all(|tag| tag.set.is_some()));

    admin.remove_tag(&cats, "v2").await.unwrap();
    let manifests = admin.manifests(&cats).await.unwrap();
    let tags_of = |digest| {
        let found = manifests.iter().find(|manifest| manifest.digest == digest);
        found.map(|manifest| manifest.tags.clone()).unwrap()
    };
    assert_eq!((tags_of(one), tags_of(two)), (vec!["v1".to_owned()], vec!["latest".to_owned()]));
    admin.remove_manifest(&cats, &two).await.unwrap();
    assert_eq!(admin.tags(&cats).await.unwrap().len(), 1);
    assert_eq!(server.ask("ann/cats", "GET /v2/ann/cats/manifests/latest").await.0, 404);

    let upload = server.ask("ann/cats", "POST /v2/ann/cats/blobs/uploads/").await;
    assert_eq!(upload.0, 202);
    admin.remove_repository(&cats).await.unwrap();
    assert_eq!(server.dir.path().join("uploads").read_dir().unwrap().count(), 0);
    assert_eq!(server.ask("ann/cats", "GET /v2/ann/cats/tags/list").await.0, 404);
    for (deleted, want) in [
        (admin.remove_repository(&cats).await, "there is no repository `ann/cats`"),
        (admin.remove_tag(&cats, "v1").await, "there is no repository `ann/cats`"),
        (admin.remove_manifest(&cats, &one).await, "there is no repository `ann/cats`"),
    ] {
        let Err(Error::Admin { message }) = deleted else { panic!("{deleted:?}") };
        assert!(message.contains(want), "{message}");
    }
    drop(server.close().await);
}

/// Takes root to mount a file system; without, it prints that it was skipped.
#[tokio::test]
async fn deletions_succeed_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount(64 << 20) else {
        println!("SKIPPED: mounting a file system needs root");
        return;
    };
    let data = tempfile::tempdir_in(disk.path()).unwrap();
    let path = data.path().to_owned();
    let server = TestRegistry::open_in(data, |_| ()).await;
    for n in 0..40u8 {
        server.push_image("ann/cats", &format!("v{n}"), &[b"{}", &noise(n, 1000)]).await;
    }
    server.push_image("ann/dogs", "v1", &[b"{}"]).await;
    let mut filler = std::fs::File::create(path.join("filler")).unwrap();
    std::io::copy(&mut std::io::repeat(0), &mut filler).unwrap_err();
    let fill = |filler: &mut std::fs::File| {
        let _ = std::io::copy(&mut std::io::repeat(0), filler);
    };
    let blob = noise(99, 2 << 20);
    let request = format!("POST /v2/ann/cats/blobs/uploads/?digest={}", Digest::of(&blob));
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let refused = server.request(&request, &[("authorization", &bearer)], blob).await;
    assert_eq!(refused.status, StatusCode::INSUFFICIENT_STORAGE, "the disk is full");
    fill(&mut filler);
    // Also what the database has in its files already is used up.
    let (admin, cats) = (&server.admin, repository("ann/cats"));
    for n in 0..40 {
        admin.remove_tag(&cats, &format!("v{n}")).await.unwrap();
    }
    let manifests = admin.manifests(&cats).await.unwrap();
    assert_eq!(manifests.len(), 40);
    let (over_http, rest) = manifests.split_at(5);
    for manifest in over_http {
        let request = format!("DELETE /v2/ann/cats/manifests/{}", manifest.digest);
        assert_eq!(server.ask("ann/cats", &request).await.0, 202);
    }
    for manifest in rest {
        admin.remove_manifest(&cats, &manifest.digest).await.unwrap();
    }
    admin.remove_repository(&cats).await.unwrap();
    assert!(!path.join("reserve").exists(), "the deletions needed it");
    drop(filler);
    std::fs::remove_file(path.join("filler")).unwrap();
    server.push_image("ann/cats", "v1", &[b"{}"]).await;
    drop(server.close().await);
}
