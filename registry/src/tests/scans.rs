//! Which software is in images that were pushed, and what is made of it.

use image::{ArchiveWriter, Attributes};
use serde_json::{Value, json};
use spec::{Descriptor, Digest, MediaType};

use super::fixture::TestRegistry;
use crate::{SbomFormat, Switch};

/// A layer with these files.
pub fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = ArchiveWriter::new(Vec::new());
    for (path, text) in files {
        let (path, mut bytes) = (path.as_bytes(), text.as_bytes());
        let size = bytes.len() as u64;
        archive
            .file(path, size, &mut bytes, Attributes { mode: 0o644, ..Attributes::default() })
            .unwrap();
    }
    archive.finish().unwrap()
}

/// A Linux image with one layer.
pub async fn push_linux(
    registry: &TestRegistry,
    repository: &str,
    tag: &str,
    (architecture, layer): (&str, &[u8]),
) -> Digest {
    let (config, manifest) = linux_manifest(architecture, layer);
    registry.push_blob(repository, config.as_bytes()).await;
    registry.push_blob(repository, layer).await;
    registry.push_manifest(repository, tag, &manifest).await
}

/// The config and the manifest of a Linux image with one layer.
fn linux_manifest(architecture: &str, layer: &[u8]) -> (String, String) {
    let config = json!({
        "os": "linux", "architecture": architecture,
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer)]},
    });
    let config = config.to_string();
    let described = |media_type: &'static str, bytes: &[u8]| {
        serde_json::to_value(Descriptor::of(media_type, bytes)).unwrap()
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": described(MediaType::OCI_CONFIG, config.as_bytes()),
        "layers": [described(MediaType::OCI_LAYER_TAR, layer)],
    });
    (config, manifest.to_string())
}

pub const DEBIAN: [(&str, &str); 2] = [
    ("etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n"),
    (
        "var/lib/dpkg/status",
        "Package: libssl3\nStatus: install ok installed\nArchitecture: amd64\n\
         Source: openssl\nVersion: 3.0.11-1\n",
    ),
];

async fn sbom(
    registry: &TestRegistry,
    name: &str,
    format: SbomFormat,
    platform: Option<&str>,
) -> Result<Value, String> {
    let bytes = registry.admin.sbom(name, format, platform).await.map_err(|e| e.to_string())?;
    Ok(serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn an_image_that_a_repository_has_in_part_is_not_read_for_it() {
    let registry = TestRegistry::open().await;
    let layer = layer(&DEBIAN);
    push_linux(&registry, "ann/deb", "v1", ("amd64", &layer)).await;
    sbom(&registry, "ann/deb:v1", SbomFormat::Spdx, None).await.unwrap();
    // The same manifest, of a client that knows digests and has none of the bytes.
    registry.admin.set_switch(Switch::Sparse, true).await.unwrap();
    registry.push_manifest("bob/deb", "v1", &linux_manifest("amd64", &layer).1).await;
    let refused = sbom(&registry, "bob/deb:v1", SbomFormat::Spdx, None).await.unwrap_err();
    assert!(refused.contains("not all of it is in the repository"), "{refused}");
    drop(registry.close().await);
}

#[tokio::test]
async fn a_bill_of_material_is_made_of_the_bytes_of_an_image_in_both_formats() {
    let registry = TestRegistry::open().await;
    let digest = push_linux(&registry, "ann/deb", "v1", ("amd64", &layer(&DEBIAN))).await;
    let want = "pkg:deb/debian/libssl3@3.0.11-1?arch=amd64&distro=debian-12";
    let spdx = sbom(&registry, "ann/deb:v1", SbomFormat::Spdx, None).await.unwrap();
    assert_eq!(spdx["spdxVersion"], "SPDX-2.3");
    assert_eq!(spdx["name"], format!("ann/deb@{digest}"));
    let package = &spdx["packages"][1];
    assert_eq!(
        (&package["name"], &package["versionInfo"]),
        (&json!("libssl3"), &json!("3.0.11-1"))
    );
    assert_eq!(package["externalRefs"][0]["referenceLocator"], want);
    let cyclone = sbom(&registry, "ann/deb:v1", SbomFormat::Cyclonedx, None).await.unwrap();
    assert_eq!(cyclone["bomFormat"], "CycloneDX");
    assert_eq!(cyclone["components"][0]["name"], "debian");
    assert_eq!(cyclone["components"][1]["purl"], want);
    // The same bytes again, also by another process.
    let first = registry.admin.sbom("ann/deb:v1", SbomFormat::Spdx, None).await.unwrap();
    let dir = registry.close().await;
    let registry = TestRegistry::open_in(dir, |_| ()).await;
    let again = registry.admin.sbom("ann/deb:v1", SbomFormat::Spdx, None).await.unwrap();
    assert_eq!(first, again);
    registry.close().await;
}

#[tokio::test]
async fn of_an_index_one_platform_is_named_and_what_is_no_image_is_refused() {
    let registry = TestRegistry::open().await;
    let amd64 = push_linux(&registry, "ann/all", "amd64", ("amd64", &layer(&DEBIAN))).await;
    let arm64 = push_linux(&registry, "ann/all", "arm64", ("arm64", &layer(&DEBIAN))).await;
    let entry = |digest: &Digest| json!({"mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": 1});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX,
        "manifests": [entry(&amd64), entry(&arm64)],
    });
    registry.push_manifest("ann/all", "v1", &index.to_string()).await;
    push_linux(&registry, "ann/all", "no-layer", ("amd64", b"not a tar")).await;
    registry.push_image("ann/all", "no-image", &[b"{}", b"not a tar"]).await;
    let error = sbom(&registry, "ann/all:v1", SbomFormat::Spdx, None).await.unwrap_err();
    assert!(error.contains("linux/amd64, linux/arm64"), "{error}");
    let one = sbom(&registry, "ann/all:v1", SbomFormat::Spdx, Some("linux/arm64")).await.unwrap();
    assert_eq!(one["name"], format!("ann/all@{arm64}"));
    for (name, platform, want) in [
        ("ann/all:v1", Some("linux/riscv64"), "has no image of the platform `linux/riscv64`"),
        ("ann/all:no-image", None, "`ann/all:no-image` is no image"),
        ("ann/all:v2", None, "no image `ann/all:v2`"),
        ("ann/none:v1", None, "no image `ann/none:v1`"),
        ("ann/all", None, "is neither REPOSITORY:TAG nor REPOSITORY@DIGEST"),
    ] {
        let error = sbom(&registry, name, SbomFormat::Spdx, platform).await.unwrap_err();
        assert!(error.contains(want), "{name}: {error}");
    }
    let unread = sbom(&registry, "ann/all:no-layer", SbomFormat::Spdx, None).await.unwrap();
    assert!(unread["comment"].as_str().unwrap().starts_with("not read: layer "), "{unread}");
    registry.close().await;
}

#[tokio::test]
async fn a_database_of_scans_that_is_damaged_is_made_again_of_the_images() {
    let registry = TestRegistry::open().await;
    push_linux(&registry, "ann/deb", "v1", ("amd64", &layer(&DEBIAN))).await;
    sbom(&registry, "ann/deb:v1", SbomFormat::Spdx, None).await.unwrap();
    let dir = registry.close().await;
    std::fs::write(dir.path().join("scans.db"), b"this is no database at all".repeat(100)).unwrap();
    let registry = TestRegistry::open_in(dir, |_| ()).await;
    let again = sbom(&registry, "ann/deb:v1", SbomFormat::Spdx, None).await.unwrap();
    assert_eq!(again["packages"].as_array().unwrap().len(), 2);
    registry.close().await;
}
