//! What was used in a period.

use serde_json::Value;

use crate::{
    stage::{Stage, eventually, get},
    up::{HOST, Up, serve_cats},
};

#[test]
fn usage_is_told_by_day_service_and_task() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 2);
    for _ in 0..10 {
        assert_eq!(get(&up.ingress, HOST, "/").map(|answer| answer.status), Some(200));
    }
    let usage = |more: &[&str]| stage.margay([&["usage", "--output", "json"], more].concat());
    let rows =
        |more: &[&str]| -> Vec<Value> { serde_json::from_str(&usage(more).ok()).expect("JSON") };
    eventually("it is counted", || {
        let runs = |row: &Value| row["runs"].as_u64().expect("a number");
        let rows = rows(&["--from", "1m"]);
        (rows.len() == 1 && rows[0]["name"] == "cats" && runs(&rows[0]) >= 10).then_some(())
    });
    assert_eq!(rows(&["--from", "1d", "--by", "task"]).len(), 2);
    assert_eq!(rows(&["--to", "2026-01-01"]).len(), 0);
    let tenant = rows(&["--from", "1d", "--by", "tenant"])[0]["tenant"].clone();
    let tenant = tenant.as_str().expect("a name");
    assert_eq!(rows(&["--tenant", tenant]).len(), 1);
    assert_eq!(rows(&["--tenant", "nothing-of-it"]).len(), 0);
    let table = stage.margay(["usage", "--from", "1d"]).ok();
    assert!(table.starts_with("NAME") && table.contains("DAYS"), "{table}");
    let err = usage(&["--from", "soon"]).fails(2);
    assert!(err.contains("`soon` is no point in time"), "{err}");
    let err = usage(&["--from", "1d", "--by", "image"]).fails(2);
    assert!(err.contains("of services, tasks and tenants, not of images"), "{err}");
    // Another tenant sees its own alone.
    let made = stage.margay(["credential", "create", "reader", "--tenant", "acme"]);
    let file = stage.write("acme.json", made.ok()).display().to_string();
    let err = usage(&["--tenant", tenant, "--credential", &file]).fails(1);
    assert!(err.contains("forbidden") || err.contains("may not"), "{err}");
    assert_eq!(rows(&["--from", "1d", "--credential", &file]).len(), 0);
    up.end();
    stage.is_empty();
}
