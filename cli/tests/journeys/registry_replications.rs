//! Repositories that are pushed to another registry, from the command line.

use crate::{
    registry_admin::{Apart, check},
    stage::{Stage, eventually},
};

#[test]
fn images_are_replicated_to_another_registry_and_bad_replications_are_refused() {
    let (near, far) = (Stage::new(), Stage::new());
    let here = Apart::with_images(&near);
    let there = Apart::with_images(&far);
    let url = format!("http://{}", there.address);
    for (line, code, want) in [
        ("replication ls", 0, "REPLICATION"),
        ("replication rm me/dr", 1, "there is no replication `me/dr`"),
        ("replication create me https://example.com", 2, "`me` is not ACCOUNT/NAME"),
        ("replication create me/dr example.com", 1, "is not the URL of a registry"),
        (&*format!("replication create me/dr {url}"), 1, "an operator may allow it"),
        ("replication create you/dr https://example.com", 1, "there is no user `you`"),
        ("replication create me/dr https://example.com --repositories you/*", 1, "as in me/*"),
        ("replication create me/dr https://example.com --to A", 1, "`A` is not the start"),
        ("replication create me/dr https://example.com --username me", 2, "--password-stdin"),
    ] {
        check(&near, line, code, want);
    }
    let create = format!(
        "registry replication create me/dr {url} --private --to me/mirror --username me \
         --password-stdin"
    );
    near.margay_fed(create.split_whitespace(), "a fine password\n").ok();
    let tags = || far.margay(["registry", "tag", "ls", "me/mirror/cats"]).out;
    eventually("what was there is replicated", || {
        let tags = tags();
        (tags.contains("hello") && tags.contains("httpd")).then_some(())
    });
    here.push(&near, "hello", "me/cats:later");
    eventually("a push is replicated", || tags().contains("later").then_some(()));
    check(&near, "replication log me/dr", 0, "replicated");
    check(&near, "replication sync me/dr", 0, "me/dr");
    let image = format!("{}/me/mirror/cats:later", there.address);
    far.margay(["run", &image]).ok();
    there.end();
    here.push(&near, "httpd", "me/cats:waits");
    eventually("a change waits", || {
        let said = near.margay(["registry", "replication", "ls"]).ok();
        said.contains("cannot reach").then_some(())
    });
    check(&near, "replication rm me/dr", 0, "me/dr");
    here.end();
}
