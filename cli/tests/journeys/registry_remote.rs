//! A registry as it is used from another home: administered, shared, and with the logins of docker.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use crate::{
    registry_admin::{Apart, check},
    stage::{Stage, said},
};

fn add_user(stage: &Stage, name: &str) {
    let add = ["registry", "user", "add", name, "--password-stdin"];
    stage.margay_fed(add, "a fine password\n").ok();
}

fn log_in(stage: &Stage, name: &str, password: &str, address: &str) {
    let log_in = ["login", "-u", name, "--password-stdin", address];
    stage.margay_fed(log_in, &format!("{password}\n")).ok();
}

#[test]
fn operators_and_users_administer_a_registry_from_another_home() {
    let (here, away) = (Stage::new(), Stage::new());
    let apart = Apart::with_images(&here);
    for name in ["ann", "root"] {
        add_user(&here, name);
    }
    check(&here, "operator add root", 0, "root");
    check(&here, "operator add nosuch", 1, "`nosuch` is no user of this registry");
    check(&here, "operator ls", 0, "root");
    let there = &apart.address;
    let line = |line: &str| format!("{line} --registry {there}");
    // Without a login, and as a user.
    check(&away, &line("user ls"), 1, "hint: log in first: margay login -u USER");
    log_in(&away, "ann", "a fine password", there);
    for (verb, code, want) in [
        ("user ls", 1, "`ann` may not administer this registry"),
        ("repository ls", 0, "REPOSITORY"),
        ("policy set me/cats ann pull", 1, "`ann` may not administer `me/cats`"),
        ("visibility me/cats public", 1, "there is no repository `me/cats`"),
        ("robot add me+ci", 1, "`ann` may not administer `me`"),
        ("robot add ann+ci", 0, "ann+ci"),
        ("policy set ann/* me push", 0, "push"),
        ("policy ls", 0, "ann/*"),
        ("gc", 1, "`ann` may not administer this registry"),
        ("metrics", 1, "`ann` may not administer this registry"),
        ("backup x", 2, "a registry is backed up and restored on its own machine"),
    ] {
        check(&away, &line(verb), code, want);
    }
    check(&away, "policy ls --plain-http", 2, "hint: name it: --registry HOST:PORT");
    // The user that was given a role pushes with it.
    apart.push(&here, "hello", "ann/shared:v1");
    check(&away, &line("tag ls ann/shared"), 0, "v1");
    check(&away, &line("policy rm ann/* me"), 0, "ann/* me");
    let image = format!("{there}/ann/shared:v1");
    let err = here.margay(["push", &image]).fails(1);
    assert!(err.contains("`me` may not") && err.contains("hint: "), "{err}");
    // A password that is changed from elsewhere.
    check(&away, "passwd", 2, "hint: name the registry: --registry HOST:PORT");
    let passwd = ["registry", "passwd", "--password-stdin", "--registry", there];
    let short = away.margay_fed(passwd, "short\n").fails(1);
    assert!(short.contains("a password has 8 to 256 bytes"), "{short}");
    assert_eq!(away.margay_fed(passwd, "another password\n").ok(), "ann\n");
    check(&away, &line("tag ls ann/shared"), 0, "v1");
    let old = ["login", "-u", "ann", "--password-stdin", there];
    let old = here.margay_fed(old, "a fine password\n").fails(1);
    assert!(old.contains("does not accept that password"), "{old}");
    // The operator.
    log_in(&away, "root", "a fine password", there);
    for (verb, want) in [
        ("user ls", "ann"),
        ("org add acme", "acme"),
        ("rate-limit --login 50", "login 50"),
        ("rate-limit --login none", "login none"),
        ("access-log on", "on"),
        ("metrics", "margay_registry_pushes_total{repository=\"ann/shared\"} 1"),
        ("gc --dry-run", "Would remove 0 blobs"),
        ("quota set me tags=9", "/9"),
        ("access-log off", "off"),
    ] {
        check(&away, &line(verb), 0, want);
    }
    check(&here, "rate-limit --login fast", 2, "`fast` is neither a number");
    let log = fs::read_to_string(here.home().join("registry/access/access.log")).expect("a log");
    let first: Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["principal"], "user/root", "{first}");
    check(&here, "operator rm root", 0, "root");
    check(&away, &line("user ls"), 1, "`root` may not administer this registry");
    apart.end();
    here.is_empty();
    away.is_empty();
}

#[test]
fn the_logins_of_docker_and_its_helpers_are_used_where_margay_has_none() {
    let (here, away) = (Stage::new(), Stage::new());
    let apart = Apart::with_images(&here);
    let there = &apart.address;
    let image = format!("{there}/me/cats:hello");
    let pull = |home: &str| {
        let mut command = away.command(["pull", &image]);
        let path = format!("{}:/usr/bin:/bin", away.path("bin").display());
        command.env("HOME", away.path(home)).env("PATH", path);
        said(command.output().expect("margay runs"))
    };
    pull("nothing").fails(1);
    // `me:a fine password`
    let auth = "bWU6YSBmaW5lIHBhc3N3b3Jk";
    let config = format!(r#"{{"auths":{{"{there}":{{"auth":"{auth}"}}}}}}"#);
    away.write("docker/.docker/config.json", &config);
    pull("docker").ok();
    away.write("podman/.config/containers/auth.json", &config);
    pull("podman").ok();
    // A helper gets the registry on stdin.
    let helper = "#!/bin/sh\n[ \"$1\" = get ] && read -r key || [ -n \"$key\" ]\n\
                  printf '{\"ServerURL\":\"%s\",\"Username\":\"me\",\"Secret\":\"a fine password\"}' \"$key\"\n";
    let helper = away.write("bin/docker-credential-test", helper);
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("executable");
    away.write("helped/.docker/config.json", r#"{"credsStore":"test"}"#);
    pull("helped").ok();
    // One that is not there is told, and what cannot be read as well.
    away.write("unhelped/.docker/config.json", r#"{"credsStore":"nosuch"}"#);
    let err = pull("unhelped").fails(1);
    assert!(err.contains("Cannot ask `docker-credential-nosuch`"), "{err}");
    away.write("broken/.docker/config.json", "{");
    let err = pull("broken").fails(1);
    assert!(err.contains("Cannot read the logins in "), "{err}");
    apart.end();
    here.is_empty();
    away.is_empty();
}
