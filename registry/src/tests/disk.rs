//! A full disk. The test fills a file system of its own, which takes root to mount; without, it
//! prints that it was skipped.

use std::{path::Path, process::Command};

use http::StatusCode;
use spec::Digest;

use super::fixture::{TestRegistry, TestResponse, noise};

/// A small file system, mounted until it is dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn mount(bytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes},mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then(|| Self(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Takes what is left of a disk; the file of it.
fn fill(disk: &SmallDisk) -> std::fs::File {
    let mut ballast = std::fs::File::create(disk.0.path().join("ballast")).unwrap();
    while std::io::Write::write_all(&mut ballast, &[0; 4096]).is_ok() {}
    ballast
}

fn uploads(data: &Path) -> usize {
    std::fs::read_dir(data.join("uploads")).unwrap().count()
}

#[tokio::test]
async fn a_full_disk_answers_507_keeps_no_partial_blob_and_recovers() {
    let Some(disk) = SmallDisk::mount(4 << 20) else {
        println!("SKIPPED: mounting a file system needs root");
        return;
    };
    let data = tempfile::tempdir_in(disk.0.path()).unwrap();
    let path = data.path().to_owned();
    let server = TestRegistry::open_in(data, |_| ()).await;
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let auth = ("authorization", bearer.as_str());
    let small = server.push_blob("ann/cats", &noise(1, 1000)).await;

    let big = noise(2, 8 << 20);
    let digest = Digest::of(&big);
    let full = |answer: &TestResponse| {
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (507, "UNKNOWN"))
    };
    let at_once = server
        .request(&format!("POST /v2/ann/cats/blobs/uploads/?digest={digest}"), &[auth], big.clone())
        .await;
    full(&at_once);
    let begun = server.request("POST /v2/ann/cats/blobs/uploads/", &[auth], "").await;
    let upload = begun.header("location").to_owned();
    let streamed = server.request(&format!("PATCH {upload}"), &[auth], big.clone()).await;
    full(&streamed);
    assert!(String::from_utf8_lossy(&streamed.bytes).contains("the disk of this registry is full"));
    assert_eq!(uploads(&path), 0, "no partial upload is kept");
    for request in [format!("HEAD /v2/ann/cats/blobs/{digest}"), format!("GET {upload}")] {
        assert_eq!(
            server.request(&request, &[auth], "").await.status,
            StatusCode::NOT_FOUND,
            "{request}"
        );
    }
    let again = server.request(&format!("GET /v2/ann/cats/blobs/{small}"), &[auth], "").await;
    assert_eq!(again.bytes, noise(1, 1000), "existing blobs stay readable");

    // Another process takes the rest, when the bytes of one upload have arrived: not even the
    // database can grow.
    let late = noise(4, 1000);
    let begun = server.request("POST /v2/ann/cats/blobs/uploads/", &[auth], "").await;
    let upload = begun.header("location").to_owned();
    assert_eq!(
        server.request(&format!("PATCH {upload}"), &[auth], late.clone()).await.status,
        StatusCode::ACCEPTED
    );
    let filler = path.join("filler");
    let mut rest = std::fs::File::create(&filler).unwrap();
    std::io::copy(&mut std::io::repeat(0), &mut rest).unwrap_err();
    let digest = Digest::of(&late);
    full(&server.request(&format!("PUT {upload}?digest={digest}"), &[auth], "").await);
    let gone = server.request(&format!("HEAD /v2/ann/cats/blobs/{digest}"), &[auth], "").await;
    assert_eq!((gone.status, uploads(&path)), (StatusCode::NOT_FOUND, 0));
    let blob = noise(3, 1000);
    let request = format!("POST /v2/ann/cats/blobs/uploads/?digest={}", Digest::of(&blob));
    let refused = server.request(&request, &[auth], blob.clone()).await;
    full(&refused);
    let gone = server
        .request(&format!("HEAD /v2/ann/cats/blobs/{}", Digest::of(&blob)), &[auth], "")
        .await;
    assert_eq!((gone.status, uploads(&path)), (StatusCode::NOT_FOUND, 0));
    drop(rest);
    std::fs::remove_file(&filler).unwrap();
    server.push_blob("ann/cats", &blob).await;
    server.push_blob("ann/cats", &late).await;
    drop(server.close().await);
}

#[tokio::test]
async fn without_space_for_the_audit_log_changes_are_refused_and_pulls_go_on() {
    let Some(disk) = SmallDisk::mount(3 << 20) else {
        println!("SKIPPED: mounting a file system needs root");
        return;
    };
    let data = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(disk.0.path(), data.path().join("audit")).unwrap();
    let server = TestRegistry::open_in(data, |_| ()).await;
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let auth = ("authorization", bearer.as_str());
    let small = server.push_blob("ann/cats", &noise(1, 1000)).await;
    let ballast = fill(&disk);
    let (read, change) =
        (format!("GET /v2/ann/cats/blobs/{small}"), "POST /v2/ann/cats/blobs/uploads/");
    let mut refused = None;
    // Reads take what was reserved ahead.
    for round in 0..20_000 {
        assert_eq!(server.request(&read, &[auth], "").await.status, StatusCode::OK);
        if round % 250 == 0 {
            let answer = server.request(change, &[auth], "").await;
            if answer.status != StatusCode::ACCEPTED {
                refused = Some(answer);
                break;
            }
        }
    }
    let refused = refused.expect("changes are refused");
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (507, "DENIED"));
    let text = String::from_utf8_lossy(&refused.bytes).into_owned();
    assert!(text.contains("no space for the audit log"), "{text}");
    let tag = server.request("PUT /v2/ann/cats/manifests/v1", &[auth], "{}").await;
    assert_eq!(tag.status.as_u16(), 507);
    for _ in 0..100 {
        assert_eq!(server.request(&read, &[auth], "").await.status, StatusCode::OK);
    }
    ballast.set_len(0).unwrap();
    assert_eq!(server.request(change, &[auth], "").await.status, StatusCode::ACCEPTED);
    let folder = server.dir.path().join("audit");
    assert!(::audit::verify(&folder, None).unwrap().is_ok(), "the chain holds");
    drop(server.close().await);
}
