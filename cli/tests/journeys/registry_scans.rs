//! Which software images have, which vulnerabilities, and which are refused for it.

use std::fs;

use serde_json::{Value, json};

use crate::{
    registry_admin::{Apart, check},
    stage::Stage,
};

/// A local image with the database of packages of Debian, without anything to run.
fn build_debian(stage: &Stage, name: &str) {
    let folder = stage.path("debian");
    fs::create_dir_all(&folder).expect("a folder");
    let files = [
        ("os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n"),
        (
            "status",
            "Package: libssl3\nStatus: install ok installed\nArchitecture: amd64\n\
             Source: openssl\nVersion: 3.0.11-1\n",
        ),
        (
            "Dockerfile",
            "FROM scratch\nCOPY os-release /usr/lib/os-release\nCOPY status /var/lib/dpkg/status\n",
        ),
    ];
    for (file, text) in files {
        fs::write(folder.join(file), text).expect("a file");
    }
    let folder = folder.display().to_string();
    stage.margay(["build", "-q", "-t", name, &folder]).ok();
}

/// A record of OSV, changed `days` ago.
fn record(stage: &Stage, id: &str, fixed: &str, days: u64) -> String {
    let path = stage.path(&format!("{id}.json"));
    let now = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 3600);
    let record = json!({
        "id": id,
        "modified": spec::Timestamp::of(now).to_string(),
        "summary": "A fault of openssl",
        "database_specific": {"severity": "HIGH"},
        "affected": [{
            "package": {"ecosystem": "Debian:12", "name": "openssl"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}],
        }],
    });
    fs::write(&path, record.to_string()).expect("a file");
    path.display().to_string()
}

#[test]
fn an_image_is_scanned_refused_and_waived() {
    let stage = Stage::new();
    let apart = Apart::with_images(&stage);
    build_debian(&stage, "deb");
    apart.push(&stage, "deb", "me/deb:v1");
    let sbom = stage.margay(["registry", "sbom", "me/deb:v1", "--format", "cyclonedx"]).ok();
    let sbom: Value = serde_json::from_str(&sbom).expect("JSON");
    let url = sbom["components"][1]["purl"].as_str().expect("a package URL");
    assert!(url.starts_with("pkg:deb/debian/libssl3@3.0.11-1?"), "{url}");
    let (found, old) = (record(&stage, "CVE-2024-1", "3.0.13-1", 0), stage.path("nonsense.json"));
    fs::write(&old, "nonsense").expect("a file");
    let nonsense = old.display().to_string();
    for (line, code, want) in [
        ("sbom me/cats:hello", 0, "SPDX-2.3"),
        ("sbom me/none:v1", 1, "no image `me/none:v1`"),
        ("sbom me/deb:v1 --platform linux/s390x", 1, "has no image of the platform"),
        ("sbom me/deb:v1 --format html", 2, "html"),
        ("attach-scans", 0, "off"),
        ("vulndb ls", 0, "There is no vulnerability data"),
        ("vulndb update", 1, "hint: import it once"),
        ("scan me/deb:v1", 0, "there is no vulnerability data of `Debian`"),
        ("scan me/deb:v1 --severity unknown", 1, "not everything of `me/deb:v1` is known"),
        ("vulndb import /nosuch", 1, "cannot read `/nosuch`"),
        (&format!("vulndb import {nonsense}"), 1, "no vulnerability of a package was found"),
        ("vulndb import ftp://x/y", 1, "cannot read `ftp://x/y`"),
    ] {
        check(&stage, line, code, want);
    }
    let plain = stage.margay(["registry", "vulndb", "import", "http://example.invalid/y"]);
    assert!(plain.fails(1).contains("is no URL of HTTPS"));
    for (line, code, want) in [
        (&*format!("vulndb import {found}"), 0, "Images with new findings: 1"),
        ("vulndb ls", 0, "current"),
        ("scan me/deb:v1", 0, "3.0.13-1"),
        ("scan me/deb:v1", 0, "status       vulnerable"),
        ("scan me/deb:v1 --severity critical", 0, "1 high"),
        ("scan me/deb:v1 --severity high", 1, "1 findings as severe as high"),
        ("scan me/deb:v1 --severity bad", 2, "is no severity"),
        ("findings ls", 0, "me/deb:v1"),
        ("findings ls --vulnerability CVE-2024-2 -o json", 0, "[]"),
        ("scan-policy set me/* --severity high", 0, "me/*"),
        ("scan-policy ls", 0, "refused"),
        ("scan-policy waive me/x CVE-2024-1 --for 1d", 1, "there is no policy of scans for `me/x`"),
        ("scan-policy unwaive me/* CVE-2024-1", 1, "has no waiver of `CVE-2024-1`"),
    ] {
        check(&stage, line, code, want);
    }
    let image = format!("{}/me/deb:v1", apart.address);
    let other = Stage::new();
    let log_in = ["login", "-u", "me", "--password-stdin", &apart.address];
    other.margay_fed(log_in, "a fine password\n").ok();
    let refused = other.margay(["pull", &image]).fails(1);
    assert!(refused.contains("it has `CVE-2024-1` (high) in `libssl3`"), "{refused}");
    assert!(refused.contains("hint: see what it has: margay registry scan"), "{refused}");
    check(&stage, "scan-policy waive me/* CVE-2024-1 --for 1d --reason unused", 0, "me/*");
    check(&stage, "scan me/deb:v1 --severity high", 0, "waived: unused");
    other.margay(["pull", &image]).ok();
    // By data that is old nothing is clean.
    let old = record(&stage, "CVE-2024-2", "3.0.1-1", 60);
    check(&stage, &format!("vulndb import {old}"), 0, "old: ends 60 days ago");
    check(&stage, "scan me/deb:v1", 0, "status       unknown");
    let refused = other.margay(["pull", &image]).fails(1);
    assert!(refused.contains("its vulnerabilities are unknown"), "{refused}");
    check(&stage, "scan-policy rm me/*", 0, "me/*");
    other.margay(["pull", &image]).ok();
    apart.end();
}
