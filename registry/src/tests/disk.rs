//! A disk that is full. Filling one takes a file system of its own, and that takes root; without,
//! the test says that it did not run.

use std::{path::Path, process::Command};

use http::StatusCode;
use spec::Digest;

use super::fixture::{Answer, House, noise};

/// A small file system, for as long as it lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes},mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then(|| Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn uploads(data: &Path) -> usize {
    std::fs::read_dir(data.join("uploads")).unwrap().count()
}

#[tokio::test]
async fn a_full_disk_is_said_and_shows_nothing_half_done_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(4 << 20) else {
        println!("SKIPPED: no disk was filled: not root");
        return;
    };
    let data = tempfile::tempdir_in(disk.0.path()).unwrap();
    let path = data.path().to_owned();
    let house = House::open_in(data, |_| ()).await;
    let bearer = format!("Bearer {}", house.token("ann/cats"));
    let auth = ("authorization", bearer.as_str());
    let small = house.push_blob("ann/cats", &noise(1, 1000)).await;

    let big = noise(2, 8 << 20);
    let digest = Digest::of(&big);
    let full = |answer: &Answer| {
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (507, "UNKNOWN"))
    };
    let at_once = house
        .ask(&format!("POST /v2/ann/cats/blobs/uploads/?digest={digest}"), &[auth], big.clone())
        .await;
    full(&at_once);
    let begun = house.ask("POST /v2/ann/cats/blobs/uploads/", &[auth], "").await;
    let upload = begun.header("location").to_owned();
    let streamed = house.ask(&format!("PATCH {upload}"), &[auth], big.clone()).await;
    full(&streamed);
    assert!(String::from_utf8_lossy(&streamed.bytes).contains("the disk of this registry is full"));
    assert_eq!(uploads(&path), 0, "a half takes no room");
    for request in [format!("HEAD /v2/ann/cats/blobs/{digest}"), format!("GET {upload}")] {
        assert_eq!(
            house.ask(&request, &[auth], "").await.status,
            StatusCode::NOT_FOUND,
            "{request}"
        );
    }
    let again = house.ask(&format!("GET /v2/ann/cats/blobs/{small}"), &[auth], "").await;
    assert_eq!(again.bytes, noise(1, 1000), "what was there stays readable");

    // Somebody else takes all there is, when the bytes of one upload are in: not even the database
    // can grow.
    let late = noise(4, 1000);
    let begun = house.ask("POST /v2/ann/cats/blobs/uploads/", &[auth], "").await;
    let upload = begun.header("location").to_owned();
    assert_eq!(
        house.ask(&format!("PATCH {upload}"), &[auth], late.clone()).await.status,
        StatusCode::ACCEPTED
    );
    let filler = path.join("filler");
    let mut rest = std::fs::File::create(&filler).unwrap();
    std::io::copy(&mut std::io::repeat(0), &mut rest).unwrap_err();
    let digest = Digest::of(&late);
    full(&house.ask(&format!("PUT {upload}?digest={digest}"), &[auth], "").await);
    let gone = house.ask(&format!("HEAD /v2/ann/cats/blobs/{digest}"), &[auth], "").await;
    assert_eq!((gone.status, uploads(&path)), (StatusCode::NOT_FOUND, 0));
    let blob = noise(3, 1000);
    let request = format!("POST /v2/ann/cats/blobs/uploads/?digest={}", Digest::of(&blob));
    let refused = house.ask(&request, &[auth], blob.clone()).await;
    full(&refused);
    let gone =
        house.ask(&format!("HEAD /v2/ann/cats/blobs/{}", Digest::of(&blob)), &[auth], "").await;
    assert_eq!((gone.status, uploads(&path)), (StatusCode::NOT_FOUND, 0));
    drop(rest);
    std::fs::remove_file(&filler).unwrap();
    house.push_blob("ann/cats", &blob).await;
    house.push_blob("ann/cats", &late).await;
    drop(house.close().await);
}
