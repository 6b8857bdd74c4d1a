//! What is read in images that were pushed.

use std::io::Write as _;

use serde_json::json;
use spec::{Descriptor, Digest, MediaType};

use super::fixture::TestRegistry;
use crate::ImageSearch;

/// A Wasm artifact with this program.
async fn push_wasm(registry: &TestRegistry, repository: &str, tag: &str, bytes: &[u8]) -> Digest {
    let config = br#"{"architecture":"wasm","os":"wasip2"}"#;
    let described = |media_type: &'static str, bytes: &[u8]| {
        serde_json::to_value(Descriptor::of(media_type, bytes)).unwrap()
    };
    registry.push_blob(repository, config).await;
    registry.push_blob(repository, bytes).await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": described("application/vnd.wasm.config.v0+json", config),
        "layers": [described("application/wasm", bytes)],
    });
    registry.push_manifest(repository, tag, &manifest.to_string()).await
}

#[tokio::test]
async fn what_is_in_an_image_is_read_after_its_push_and_within_limits() {
    let registry = TestRegistry::open().await;
    // A module without anything, one that imports a name of 20,000 letters, and what is no module.
    let empty = b"\0asm\x01\0\0\0".to_vec();
    let mut long = empty.clone();
    let name = "n".repeat(20_000);
    let mut types = vec![1u8, 0x60, 0, 0];
    long.push(1);
    long.push(types.len() as u8);
    long.append(&mut types);
    let mut import = vec![1u8, 1, b'm'];
    import.extend_from_slice(&[0xa0, 0x9c, 0x01]);
    import.write_all(name.as_bytes()).unwrap();
    import.extend_from_slice(&[0, 0]);
    long.push(2);
    let length = import.len() as u32;
    long.extend_from_slice(&[
        (length & 0x7f) as u8 | 0x80,
        (length >> 7 & 0x7f) as u8 | 0x80,
        (length >> 14) as u8,
    ]);
    long.append(&mut import);
    for (tag, bytes, want) in [
        ("empty", empty, Ok("0.1")),
        ("long", long, Err("what it says about itself has more than 16384 bytes")),
        ("cut", b"\0asm\x01\0\0\0\x01".to_vec(), Err("cut short")),
        ("text", b"no program".to_vec(), Err("not")),
    ] {
        push_wasm(&registry, "ann/wasm", tag, &bytes).await;
        let image = registry.admin.image(&format!("ann/wasm:{tag}")).await.unwrap();
        let contents = &image.images[0].contents;
        let program =
            contents.program.as_ref().map(|program| serde_json::to_value(program.wasi).unwrap());
        match want {
            Ok(wasi) => assert_eq!(program, Some(wasi.into()), "{tag}: {contents:?}"),
            Err(why) => {
                let unread = contents.unread.as_deref().unwrap_or_default();
                assert!(program.is_none() && unread.contains(why), "{tag}: {contents:?}");
            }
        }
    }
    // An artifact that is no image has nothing, and what was never asked for is found as well.
    registry.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    let other = registry.admin.image("ann/cats:v1").await.unwrap();
    assert_eq!(other.tags, ["v1"]);
    push_wasm(&registry, "ann/late", "v1", b"\0asm\x01\0\0\0").await;
    let dir = registry.close().await;
    let registry = TestRegistry::open_in(dir, |_| ()).await;
    let search = ImageSearch { text: Some("late".to_owned()), ..ImageSearch::default() };
    loop {
        let found = registry.admin.search(&search).await.unwrap();
        assert_eq!(found.images.len(), 1, "{found:?}");
        if found.images[0].contents.program.is_some() {
            break;
        }
        tokio::task::yield_now().await;
    }
    // What is gone takes what was read along.
    let name = "ann/late".parse().unwrap();
    registry
        .admin
        .remove_manifest(&name, &registry.admin.image("ann/late:v1").await.unwrap().digest)
        .await
        .unwrap();
    assert_eq!(registry.admin.search(&search).await.unwrap().images, []);
    assert!(registry.admin.image("ann/late:v1").await.is_err());
    registry.close().await;
}
