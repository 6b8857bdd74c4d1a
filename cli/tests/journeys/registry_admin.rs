//! What the operator of a registry does: every verb, with bad input too.

use serde_json::Value;

use crate::{
    images::build,
    stage::{Running, Stage},
};

/// A registry that runs apart, with the user `me` logged in and two images.
pub struct Apart {
    running: Running,
    pub address: String,
}

impl Apart {
    pub fn start(stage: &Stage) -> Self {
        let mut running = stage.start(["registry", "--listen", "127.0.0.1:0"]);
        let line = running.line();
        let address = line.strip_prefix("registry listens on ").expect(&line).to_owned();
        Self { running, address }
    }

    pub fn with_images(stage: &Stage) -> Self {
        let apart = Self::start(stage);
        let add = ["registry", "user", "add", "me", "--password-stdin"];
        stage.margay_fed(add, "a fine password\n").ok();
        let log_in = ["login", "-u", "me", "--password-stdin", &apart.address];
        stage.margay_fed(log_in, "a fine password\n").ok();
        for name in ["hello", "httpd"] {
            build(stage, name).ok();
            apart.push(stage, name, &format!("me/cats:{name}"));
        }
        apart
    }

    pub fn push(&self, stage: &Stage, local: &str, name: &str) {
        let image = format!("{}/{name}", self.address);
        stage.margay(["tag", local, &image]).ok();
        stage.margay(["push", &image]).ok();
    }

    pub fn end(self) {
        self.running.signal("INT");
        let said = self.running.end();
        assert_eq!(said.code, 0, "{said:?}");
    }
}

/// Runs `margay registry LINE`, and looks for `want` in what it prints.
pub fn check(stage: &Stage, line: &str, code: i32, want: &str) {
    let said = stage.margay(["registry"].into_iter().chain(line.split(' ')));
    let text = format!("{}{}", said.out, said.err);
    assert_eq!(said.code, code, "registry {line}: {text}");
    assert!(text.contains(want), "registry {line}: no `{want}` in {text}");
    assert!(code == 0 || said.err.starts_with("error: "), "registry {line}: {text}");
}

fn json(stage: &Stage, line: &str) -> Value {
    let line = format!("registry {line} --output json");
    serde_json::from_str(&stage.margay(line.split(' ')).ok()).expect("JSON")
}

#[test]
fn an_operator_lists_limits_and_removes_what_repositories_have() {
    let stage = Stage::new();
    check(&stage, "tag ls me/cats", 1, "hint: start one: margay up");
    let apart = Apart::with_images(&stage);
    let manifests = json(&stage, "manifest ls me/cats");
    let digest = manifests[0]["digest"].as_str().expect("a digest");
    for (line, code, want) in [
        ("tag ls me/cats", 0, "httpd"),
        ("tag ls me/dogs", 1, "there is no repository `me/dogs`"),
        ("tag ls Me/Cats", 2, "Me/Cats"),
        ("tag rm me/cats", 2, "`me/cats` is not REPOSITORY:TAG"),
        ("tag rm me/cats:nosuch", 1, "`me/cats` has no tag `nosuch`"),
        ("manifest ls me/cats", 0, "PULLED"),
        ("manifest rm me/cats@sha256:00", 2, "sha256:00"),
        ("manifest rm me/cats:hello", 2, "`me/cats:hello` is not REPOSITORY@DIGEST"),
        ("repository ls", 0, "its owner"),
        ("repository rm me/dogs", 1, "there is no repository `me/dogs`"),
        ("quota set me tags=2 bytes=1GiB", 0, "2/2"),
        ("quota set me/cats repositories=1", 1, "only an account has repositories"),
        ("quota set me cats=1", 2, "cats"),
        ("quota set you tags=1", 1, "there is no user `you`"),
        ("quota ls", 0, "1.0 GiB"),
        ("upload ls", 0, "UPLOAD"),
        ("org add acme", 0, "acme"),
        ("org add me", 1, "there is a user `me` already"),
        ("org ls", 0, "acme"),
        ("team add acme/dev me", 0, "acme/dev"),
        ("team add acme/dev you", 1, "`you` is no user"),
        ("team add nosuch/dev me", 1, "there is no user `nosuch`, and no organisation"),
        ("team add acme me", 2, "`acme` is not ACCOUNT/TEAM"),
        ("team rm acme/dev you", 1, "`you` is no member of team `acme/dev`"),
        ("team ls", 0, "me"),
        ("policy set acme/* acme/dev push delete", 0, "push,delete"),
        ("policy set acme/* acme/ops push", 1, "there is no team `acme/ops`"),
        ("policy set acme/* me write", 2, "`write` is no role: pull, push"),
        ("policy set */app me pull", 2, "name one, as in acme/*"),
        ("policy set acme/app me+ci pull", 1, "there is no robot account `me+ci`"),
        ("policy ls", 0, "acme/dev"),
        ("policy check me acme/app", 0, "pull, push, tag-create, tag-overwrite, delete"),
        ("policy check me me/cats", 0, "administer (owner)"),
        ("policy check acme/dev acme/app", 1, "is neither a user nor a robot account"),
        ("policy rm acme/app me", 1, "there is no policy of `acme/app` for `me`"),
        ("policy rm acme/* acme/dev", 0, "acme/* acme/dev"),
        ("policy check me acme/app", 0, "nothing"),
        ("team rm acme/dev", 0, "acme/dev"),
        ("org rm acme", 0, "acme"),
        ("org rm acme", 1, "there is no organisation `acme`"),
        ("upload rm 12ab", 1, "upload"),
        ("upload rm x/y", 2, "`x/y` is not the identifier of an upload"),
        ("immutable set me/cats --except latest", 0, "me/cats"),
        ("immutable ls", 0, "latest"),
        ("immutable rm me/cats", 0, "me/cats"),
        ("read-only", 0, "off"),
        ("read-only on", 0, "on"),
        ("read-only maybe", 2, "maybe"),
        ("scrub", 0, "Read "),
        ("scrub --rate fast", 2, "fast"),
        ("gc --dry-run", 0, "Would remove 0 blobs"),
        ("gc --grace soon", 2, "soon"),
        ("sparse on", 0, "on"),
        ("sparse", 0, "on"),
        ("anonymous-push", 0, "off"),
    ] {
        check(&stage, line, code, want);
    }
    // A read-only registry refuses its clients, and a quota does so by its name.
    let image = format!("{}/me/cats:third", apart.address);
    stage.margay(["tag", "hello", &image]).ok();
    let err = stage.margay(["push", &image]).fails(1);
    assert!(err.contains("hint: pulling still works") && err.contains("read-only off"), "{err}");
    check(&stage, "read-only off", 0, "off");
    let err = stage.margay(["push", &image]).fails(1);
    assert!(err.contains("the quota of `me`") && err.contains("hint: "), "{err}");
    check(&stage, &format!("manifest rm me/cats@{digest}"), 0, digest);
    stage.margay(["push", &image]).ok();
    check(&stage, "tag rm me/cats:third", 0, "me/cats:third");
    check(&stage, "repository rm me/cats", 0, "me/cats");
    check(&stage, "gc --grace 0s", 0, "Removed ");
    apart.end();
    stage.is_empty();
}

#[test]
fn retention_rules_are_set_tried_applied_and_removed() {
    let stage = Stage::new();
    let apart = Apart::with_images(&stage);
    for (line, code, want) in [
        ("retention ls", 0, "NAME"),
        ("retention set me/cats", 2, "this rule does not say what to keep"),
        ("retention set me/cats --tags v*", 2, "hint: --last COUNT"),
        ("retention set me/cats --last 0", 2, "0 is not in 1.."),
        ("retention set me/cats --within never", 2, "never"),
        ("retention set me/cats --forever --last 1", 2, "cannot be used with"),
        ("retention set you --last 1", 1, "there is no user `you`"),
        ("retention set Me --last 1", 2, "Me"),
        ("retention run me/dogs", 1, "there is no repository `me/dogs`"),
        ("retention set * --untagged 7d", 0, "untagged, for 7d"),
        ("retention set me/cats --last 1 --within 1h30m --pulled-within 2d", 0, "set within 1h30m"),
        ("retention run --grace 0s", 0, "Deleted 0 tags and 0 manifests"),
        ("retention set me/cats --last 1", 0, "last 1"),
        ("retention ls", 0, "me/cats"),
        ("retention run --dry-run", 0, "used within the grace time: 1"),
        ("retention run me --grace 0s --dry-run", 0, "Would delete 1 tag and 1 manifest"),
        ("retention run me/cats --grace 0s", 0, "Deleted 1 tag and 1 manifest"),
        ("retention rm me/cats --tags v*", 1, "`me/cats` has no such retention rule"),
        ("retention rm me/cats", 0, "me/cats"),
        ("retention rm *", 0, "*"),
    ] {
        check(&stage, line, code, want);
    }
    let tags = json(&stage, "tag ls me/cats");
    assert_eq!(tags.as_array().map(Vec::len), Some(1), "{tags}");
    assert_eq!(json(&stage, "retention ls"), serde_json::json!([]));
    apart.end();
    stage.is_empty();
}

#[test]
fn a_backup_is_made_while_the_registry_runs_and_restored_in_another_home() {
    let stage = Stage::new();
    let apart = Apart::with_images(&stage);
    let folder = stage.path("backup").display().to_string();
    check(&stage, &format!("backup {folder}"), 0, "0 were there");
    apart.push(&stage, "hello", "me/dogs:v1");
    check(&stage, &format!("backup {folder}"), 0, "Copied ");
    check(&stage, &format!("restore {folder}"), 1, "there is a registry in ");
    stage.write("other/letter", "dear");
    let other = stage.path("other").display().to_string();
    check(&stage, &format!("backup {other}"), 1, "it has other files");
    apart.end();
    check(&stage, &format!("backup {folder}"), 1, "is it running");

    let home = Stage::new();
    check(&home, &format!("restore {other}"), 1, "it has no `backup.json`");
    check(&home, &format!("restore {folder}"), 0, "Start it: margay up");
    let apart = Apart::start(&home);
    let log_in = ["login", "-u", "me", "--password-stdin", &apart.address];
    home.margay_fed(log_in, "a fine password\n").ok();
    let image = format!("{}/me/dogs:v1", apart.address);
    assert_eq!(home.margay(["run", "--rm", &image]).ok(), "hello from margay\n");
    check(&home, "scrub", 0, "Read ");
    apart.end();
    home.is_empty();
    stage.is_empty();
}

/// The suite of the distribution-spec, as `tests/run` builds it: both versions, with and without
/// sparse images, with and without a login.
#[test]
fn the_conformance_suite_finds_no_failure() {
    let folders = std::env::var("MARGAY_TEST_CLIENTS").unwrap_or_default();
    let suite = folders.split(':').map(|folder| std::path::Path::new(folder).join("conformance"));
    let Some(suite) = suite.into_iter().find(|path| path.is_file()) else {
        return println!("SKIPPED: the conformance suite is not in MARGAY_TEST_CLIENTS");
    };
    let stage = Stage::new();
    let apart = Apart::with_images(&stage);
    for (version, sparse, login) in [
        ("1.1", false, true),
        ("1.1", true, false),
        ("1.1", true, true),
        ("1.1", false, false),
        ("dev", false, true),
        ("dev", true, false),
        ("dev", true, true),
        ("dev", false, false),
    ] {
        let switch = |on: bool| if on { "on" } else { "off" };
        stage.margay(["registry", "sparse", switch(sparse)]).ok();
        stage.margay(["registry", "anonymous-push", switch(!login)]).ok();
        let name = format!("{}-{sparse}-{login}", version.replace('.', "-"));
        let results = stage.path(&format!("results-{name}"));
        let mut command = std::process::Command::new(&suite);
        command
            .env_clear()
            .env("OCI_REGISTRY", &apart.address)
            .env("OCI_TLS", "disabled")
            .env("OCI_VERSION", version)
            .env("OCI_DATA_SPARSE", sparse.to_string())
            .env("OCI_RESULTS_DIR", &results)
            .env("OCI_REPO1", format!("me/one-{name}"))
            .env("OCI_REPO2", format!("me/two-{name}"))
            .current_dir(stage.home());
        if login {
            command.env("OCI_USERNAME", "me").env("OCI_PASSWORD", "a fine password");
        }
        let said = command.output().expect("the suite runs");
        let text = String::from_utf8_lossy(&said.stdout);
        let failed: Vec<_> = text.lines().filter(|line| line.ends_with("FAIL")).collect();
        assert!(said.status.success() && failed.is_empty(), "{name}: {failed:#?}");
        let passed = text.lines().find(|line| line.trim_start().starts_with("Pass..."));
        let passed = passed.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
        assert!(passed.is_some_and(|passed| passed > 500), "{name}: {text}");
        println!("{name}: {passed:?} passed");
    }
    apart.end();
    stage.is_empty();
}

#[test]
fn the_users_of_an_htpasswd_file_log_in_with_their_passwords() {
    let stage = Stage::new();
    let apart = Apart::start(&stage);
    let file = stage.path("htpasswd").display().to_string();
    let write = |text: &str| std::fs::write(&file, text).expect("a file");
    let hash = "$2y$05$Qk.8S537rLOWsqUmqBdjWOBjMazCW8i4ce/BPsXzcLYtez.ONe6M2";
    for (text, code, want) in [
        ("", 1, "has no users"),
        ("ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", 1, "the password of `ann` is not of bcrypt"),
        ("ann:$2y$31$abc", 1, "no hash of bcrypt with a cost of 4 to 14"),
        ("Ann:$2y$05$abc", 1, "line 1 of"),
        (&format!("# users\nann:{hash}\nbob:{hash}\n"), 0, "ann\nbob\n"),
        (&format!("ann:{hash}\ncat:{hash}\n"), 1, "there is a user `ann` already"),
    ] {
        write(text);
        check(&stage, &format!("user import {file}"), code, want);
    }
    check(&stage, "user import /nonexistent", 1, "cannot read `/nonexistent`");
    check(&stage, "user ls", 0, "ann\nbob\ncat\n");
    for _ in 0..2 {
        let log_in = ["login", "-u", "ann", "--password-stdin", &apart.address];
        let wrong = stage.margay_fed(log_in, "a wrong horse\n");
        assert_eq!(wrong.code, 1, "{wrong:?}");
        stage.margay_fed(log_in, "correct horse\n").ok();
    }
    apart.end();
}
