//! Vulnerability data, what it says about images, and what follows from it.

use std::{io::Cursor, time::SystemTime};

use serde_json::{Value, json};
use spec::{Digest, Timestamp};

use super::{
    fixture::TestRegistry,
    scans::{DEBIAN, layer, push_linux},
    webhooks::Receiver,
};
use crate::{
    EventKind, FindingSearch, Imported, NewWebhook, OsvCounts, ScanReport, ScanRule, ScanStatus,
    Severity, Switch, Waiver, read_osv,
};

fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}

/// A record of OSV about versions of `openssl` in Debian 12 before `fixed`.
fn openssl(id: &str, fixed: Option<&str>, modified: Timestamp) -> String {
    let mut events = vec![json!({"introduced": "0"})];
    events.extend(fixed.map(|fixed| json!({"fixed": fixed})));
    json!({
        "id": id,
        "modified": modified.to_string(),
        "upstream": [id.trim_start_matches("DEBIAN-")],
        "details": "A fault of openssl.",
        "severity": [{
            "type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N",
        }],
        "affected": [{
            "package": {"ecosystem": "Debian:12", "name": "openssl"},
            "ranges": [{"type": "ECOSYSTEM", "events": events}],
        }],
    })
    .to_string()
}

async fn import(registry: &TestRegistry, records: &[String]) -> Imported {
    let (mut counts, mut advisories) = (OsvCounts::default(), Vec::new());
    for record in records {
        let read = read_osv(Cursor::new(record.as_bytes()), &mut counts, &mut |advisory| {
            advisories.push(advisory);
            Ok(())
        });
        read.unwrap();
    }
    assert_eq!(counts.fault, None);
    let import = registry.admin.begin_import().await.unwrap();
    registry.admin.stage_vulnerabilities(&import, advisories).await.unwrap();
    registry.admin.commit_import(import, &[]).await.unwrap()
}

async fn scan(registry: &TestRegistry, name: &str) -> ScanReport {
    registry.admin.scan(name).await.unwrap().images.remove(0)
}

fn names(report: &ScanReport) -> Vec<&str> {
    report.findings.iter().map(|finding| &*finding.vulnerability).collect()
}

const FIXED_LATER: Option<&str> = Some("3.0.13-1");
const FIXED_BEFORE: Option<&str> = Some("3.0.10-1");

#[tokio::test]
async fn an_image_has_what_is_published_of_its_versions_and_is_clean_by_new_data_alone() {
    let registry = TestRegistry::open().await;
    push_linux(&registry, "ann/deb", "v1", ("amd64", &layer(&DEBIAN))).await;
    let report = scan(&registry, "ann/deb:v1").await;
    assert_eq!(report.status, ScanStatus::Unknown, "{report:?}");
    assert_eq!(report.unknown, ["there is no vulnerability data of `Debian`"]);
    let imported = import(
        &registry,
        &[
            openssl("DEBIAN-CVE-2024-1", FIXED_LATER, now()),
            openssl("DEBIAN-CVE-2023-2", FIXED_BEFORE, now()),
        ],
    )
    .await;
    assert_eq!(imported.images, 1);
    let report = scan(&registry, "ann/deb:v1").await;
    assert_eq!((report.status, names(&report)), (ScanStatus::Vulnerable, vec!["CVE-2024-1"]));
    assert_eq!(report.counts.high, 1);
    let finding = &report.findings[0];
    assert_eq!((&*finding.package, &*finding.version), ("libssl3", "3.0.11-1"));
    assert_eq!((finding.fixed.as_deref(), finding.score), (FIXED_LATER, Some(7.5)));
    // What is imported again is in the place of what was there.
    import(&registry, &[openssl("DEBIAN-CVE-2023-2", FIXED_BEFORE, now())]).await;
    let report = scan(&registry, "ann/deb:v1").await;
    assert_eq!((report.status, report.unknown.len()), (ScanStatus::Clean, 0));
    let old = Timestamp::from_millis(now().millis() - 40 * 24 * 3600 * 1000);
    import(&registry, &[openssl("DEBIAN-CVE-2023-2", FIXED_BEFORE, old)]).await;
    let report = scan(&registry, "ann/deb:v1").await;
    assert_eq!(report.status, ScanStatus::Unknown);
    assert_eq!(report.unknown, ["the data of `Debian` ends 40 days ago"]);
    let data = registry.admin.vulnerability_data().await.unwrap();
    assert_eq!(data.ecosystems[0].stale.as_deref(), Some("ends 40 days ago"));
    registry.close().await;
}

#[tokio::test]
async fn an_import_is_seen_as_a_whole_or_not_at_all() {
    let registry = TestRegistry::open().await;
    push_linux(&registry, "ann/deb", "v1", ("amd64", &layer(&DEBIAN))).await;
    import(&registry, &[openssl("DEBIAN-CVE-2024-1", FIXED_LATER, now())]).await;
    let import_of = registry.admin.begin_import().await.unwrap();
    let busy = registry.admin.begin_import().await.unwrap_err().to_string();
    assert!(busy.contains("another import of vulnerability data is under way"), "{busy}");
    let mut counts = OsvCounts::default();
    let mut other = Vec::new();
    let record = openssl("DEBIAN-CVE-2024-9", FIXED_LATER, now());
    read_osv(Cursor::new(record), &mut counts, &mut |advisory| {
        other.push(advisory);
        Ok(())
    })
    .unwrap();
    registry.admin.stage_vulnerabilities(&import_of, other.clone()).await.unwrap();
    assert_eq!(names(&scan(&registry, "ann/deb:v1").await), ["CVE-2024-1"]);
    registry.admin.abort_import(import_of).await.unwrap();
    let import_of = registry.admin.begin_import().await.unwrap();
    registry.admin.stage_vulnerabilities(&import_of, other.clone()).await.unwrap();
    // The registry ends before the import does.
    let dir = registry.close().await;
    let registry = TestRegistry::open_in(dir, |_| ()).await;
    assert_eq!(names(&scan(&registry, "ann/deb:v1").await), ["CVE-2024-1"]);
    let gone = registry.admin.stage_vulnerabilities(&import_of, other).await.unwrap_err();
    assert!(gone.to_string().contains("there is no such import"), "{gone}");
    import(&registry, &[openssl("DEBIAN-CVE-2024-3", None, now())]).await;
    assert_eq!(names(&scan(&registry, "ann/deb:v1").await), ["CVE-2024-3"], "without 2024-9");
    registry.close().await;
}

#[tokio::test]
async fn findings_of_all_images_are_listed_and_records_of_one_vulnerability_are_one() {
    let registry = TestRegistry::open().await;
    let lock = |version: &str| {
        format!("[[package]]\nname = \"time\"\nversion = \"{version}\"\nsource = \"x\"\n")
    };
    for (repository, version) in
        [("ann/old", "0.1.44"), ("ann/new", "0.3.0"), ("bob/old", "0.1.44")]
    {
        let files = [("app/Cargo.lock", &*lock(version))];
        push_linux(&registry, repository, "v1", ("amd64", &layer(&files))).await;
        scan(&registry, &format!("{repository}:v1")).await;
    }
    let record = |id: &str, aliases: &[&str], severity: &str| {
        json!({
            "id": id,
            "aliases": aliases,
            "modified": now().to_string(),
            "database_specific": {"severity": severity},
            "affected": [{
                "package": {"ecosystem": "crates.io", "name": "time"},
                "ranges": [{
                    "type": "SEMVER",
                    "events": [{"introduced": "0.1.0"}, {"fixed": "0.2.23"}],
                }],
            }],
        })
        .to_string()
    };
    let records = [
        record("GHSA-1", &["CVE-2020-26235"], "MODERATE"),
        record("RUSTSEC-2020-0071", &["CVE-2020-26235", "GHSA-1"], ""),
    ];
    import(&registry, &records).await;
    let report = scan(&registry, "ann/old:v1").await;
    assert_eq!(names(&report), ["CVE-2020-26235"]);
    assert_eq!(report.findings[0].severity, Severity::Medium);
    assert_eq!(report.findings[0].aliases, ["CVE-2020-26235", "GHSA-1", "RUSTSEC-2020-0071"]);
    let find = async |search: FindingSearch| {
        let found = registry.admin.findings(&search).await.unwrap().findings;
        let mut found: Vec<_> = found.into_iter().map(|found| found.repository).collect();
        found.dedup();
        found
    };
    let all = FindingSearch::default();
    let named = |name: &str| FindingSearch { vulnerability: Some(name.to_owned()), ..all.clone() };
    assert_eq!(find(all.clone()).await, ["ann/old", "bob/old"]);
    assert_eq!(find(named("CVE-2020-26235")).await.len(), 2);
    assert_eq!(find(named("CVE-2020")).await, Vec::<String>::new());
    let severe = FindingSearch { severity: Severity::High, ..all.clone() };
    assert_eq!(find(severe).await, Vec::<String>::new());
    let of_bob = FindingSearch { repository: Some("bob/old".to_owned()), ..all.clone() };
    assert_eq!(find(of_bob).await, ["bob/old"]);
    registry.admin.remove_repository(&"bob/old".parse().unwrap()).await.unwrap();
    assert_eq!(find(all).await, ["ann/old"]);
    registry.close().await;
}

#[tokio::test]
async fn a_policy_refuses_what_is_severe_or_unknown_until_it_is_waived() {
    let registry = TestRegistry::open().await;
    let digest = push_linux(&registry, "ann/deb", "v1", ("amd64", &layer(&DEBIAN))).await;
    let bearer = format!("Bearer {}", registry.token("ann/deb"));
    let pull = async |method: &str, target: &str| {
        let request = format!("{method} /v2/ann/deb/manifests/{target}");
        registry.request(&request, &[("authorization", &bearer)], "").await
    };
    let pattern = "ann/*".parse().unwrap();
    let rule = |severity, allow_unknown, waivers| ScanRule { severity, allow_unknown, waivers };
    let set = async |rule: ScanRule| registry.admin.set_scan_policy(&pattern, &rule).await.unwrap();
    set(rule(Severity::High, false, vec![])).await;
    let refused = pull("GET", "v1").await;
    assert_eq!(refused.status, 403);
    let text = String::from_utf8_lossy(&refused.bytes).into_owned();
    assert!(text.contains("its vulnerabilities are unknown: there is no vulnerability"), "{text}");
    // A push asks whether it is there, and goes on.
    assert_eq!(pull("HEAD", "v1").await.status, 200);
    push_linux(&registry, "ann/deb", "v2", ("amd64", &layer(&DEBIAN))).await;
    set(rule(Severity::High, true, vec![])).await;
    assert_eq!(pull("GET", "v1").await.status, 200);
    import(&registry, &[openssl("DEBIAN-CVE-2024-1", FIXED_LATER, now())]).await;
    let digest = digest.to_string();
    for target in ["v1", &digest] {
        assert_eq!(pull("GET", target).await.status, 403, "{target}");
    }
    set(rule(Severity::Critical, false, vec![])).await;
    assert_eq!(pull("GET", "v1").await.status, 200);
    let waiver = |millis| Waiver {
        vulnerability: "CVE-2024-1".to_owned(),
        expires: Timestamp::from_millis(now().millis() + millis),
        reason: "not reachable".to_owned(),
    };
    set(rule(Severity::High, false, vec![waiver(60_000)])).await;
    assert_eq!(pull("GET", "v1").await.status, 200);
    let report = scan(&registry, "ann/deb:v1").await;
    assert_eq!(report.findings[0].waived.as_ref().unwrap().reason, "not reachable");
    let dir = registry.close().await;
    let registry = TestRegistry::open_in(dir, |_| ()).await;
    let policies = registry.admin.scan_policies().await.unwrap();
    assert_eq!(policies[0].rule.waivers.len(), 1);
    registry.admin.remove_scan_policy(&pattern).await.unwrap();
    assert!(registry.admin.remove_scan_policy(&pattern).await.is_err());
    registry.close().await;
}

#[tokio::test]
async fn a_pull_under_a_policy_reads_no_file_again_and_new_data_decides_at_once() {
    let registry = TestRegistry::open().await;
    let digest = push_linux(&registry, "ann/deb", "v1", ("amd64", &layer(&DEBIAN))).await;
    let bearer = format!("Bearer {}", registry.token("ann/deb"));
    let pull = async || {
        let request = "GET /v2/ann/deb/manifests/v1";
        registry.request(request, &[("authorization", &bearer)], "").await.status.as_u16()
    };
    import(&registry, &[openssl("DEBIAN-CVE-2023-2", FIXED_BEFORE, now())]).await;
    let rule = ScanRule { severity: Severity::High, allow_unknown: false, waivers: vec![] };
    registry.admin.set_scan_policy(&"ann/*".parse().unwrap(), &rule).await.unwrap();
    assert_eq!(pull().await, 200);
    // The decision, and the bytes of the manifest, are in memory.
    let (shard, name) = (digest.hex()[..2].to_owned(), digest.hex());
    let file = registry.dir.path().join("blobs/sha256").join(shard).join(name);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(pull().await, 200);
    std::fs::write(&file, bytes).unwrap();
    import(&registry, &[openssl("DEBIAN-CVE-2024-1", FIXED_LATER, now())]).await;
    assert_eq!(pull().await, 403);
    assert_eq!(pull().await, 403);
    import(&registry, &[openssl("DEBIAN-CVE-2023-2", FIXED_BEFORE, now())]).await;
    assert_eq!(pull().await, 200);
    registry.close().await;
}

#[tokio::test]
async fn what_is_found_is_told_when_an_image_is_scanned_and_when_data_is_imported() {
    let registry = TestRegistry::open().await;
    let mut receiver = Receiver::start([]).await;
    let webhook = NewWebhook {
        url: receiver.url.clone(),
        repositories: "ann/*".parse().unwrap(),
        events: [EventKind::VulnerabilitiesFound].into(),
        private: true,
    };
    registry.admin.create_webhook(&"ann/ci".parse().unwrap(), &webhook).await.unwrap();
    let digest = push_linux(&registry, "ann/deb", "v1", ("amd64", &layer(&DEBIAN))).await;
    scan(&registry, "ann/deb:v1").await;
    let record = openssl("DEBIAN-CVE-2024-1", FIXED_LATER, now());
    assert_eq!(import(&registry, std::slice::from_ref(&record)).await.images, 1);
    let told = |event: Value, repository: &str, digest: &Digest| {
        assert_eq!(event["type"], "margay.registry.vulnerabilities-found");
        assert_eq!(event["subject"], format!("{repository}@{digest}"));
        assert_eq!(event["data"]["findings"]["high"], 1, "{event}");
        assert_eq!(event["data"]["tags"], json!(["v1"]));
    };
    told(receiver.next().await.1, "ann/deb", &digest);
    // The same data again says nothing new; the next image has the same package.
    assert_eq!(import(&registry, &[record]).await.images, 0);
    let digest = push_linux(&registry, "ann/again", "v1", ("arm64", &layer(&DEBIAN))).await;
    told(receiver.next().await.1, "ann/again", &digest);
    registry.close().await;
}

#[tokio::test]
async fn what_is_found_is_attached_to_the_image_and_replaced_by_what_is_newer() {
    let registry = TestRegistry::open().await;
    registry.admin.set_switch(Switch::AttachScans, true).await.unwrap();
    let digest = push_linux(&registry, "ann/deb", "v1", ("amd64", &layer(&DEBIAN))).await;
    let bearer = format!("Bearer {}", registry.token("ann/deb"));
    let get = async |path: &str| {
        let request = format!("GET /v2/ann/deb/{path}");
        let answer = registry.request(&request, &[("authorization", &bearer)], "").await;
        serde_json::from_slice::<Value>(&answer.bytes).unwrap()
    };
    let referrers = async || get(&format!("referrers/{digest}")).await["manifests"].take();
    let types = async || {
        let all = referrers().await;
        let all = all.as_array().unwrap().iter();
        let mut types: Vec<_> =
            all.map(|one| one["artifactType"].as_str().unwrap().to_owned()).collect();
        types.sort();
        types
    };
    scan(&registry, "ann/deb:v1").await;
    let boms = ["application/spdx+json", "application/vnd.cyclonedx+json"];
    assert_eq!(types().await, boms);
    for one in referrers().await.as_array().unwrap() {
        let manifest = get(&format!("manifests/{}", one["digest"].as_str().unwrap())).await;
        assert_eq!(manifest["subject"]["digest"], digest.to_string());
        let blob = manifest["layers"][0]["digest"].as_str().unwrap();
        assert!(get(&format!("blobs/{blob}")).await.to_string().contains("libssl3"));
    }
    let with_report = [boms[0], boms[1], "application/vnd.margay.scan.v1+json"];
    for fixed in ["3.0.12-1", "3.0.13-1"] {
        let id = format!("DEBIAN-CVE-2024-{}", fixed.len() + fixed.as_bytes()[5] as usize);
        import(&registry, &[openssl(&id, Some(fixed), now())]).await;
        assert_eq!(types().await, with_report, "one report, of the last import");
    }
    registry.admin.collect(Some(std::time::Duration::ZERO), false).await.unwrap();
    assert_eq!(types().await, with_report);
    // It goes with the image.
    registry.admin.remove_repository(&"ann/deb".parse().unwrap()).await.unwrap();
    registry.close().await;
}
