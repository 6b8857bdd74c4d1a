//! Secrets: from a file to a guest that was granted them, and to nothing else.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    images::build,
    stage::{Stage, eventually, get, samples, signal},
    up::Up,
};

/// Nothing that margay writes by itself is like this.
const CANARY: &str = "a-canary-that-sings-only-to-its-own-guest.";
const REPEATS: usize = 101;

fn probe() -> String {
    samples().join("hostile/probe-cli.wasm").display().to_string()
}

/// Every file below `folder` in which the canary is, as it is or in base64.
fn found_in(folder: &Path) -> Vec<String> {
    let base64 = "YS1jYW5hcnktdGhhdC1zaW5ncy1vbmx5LXRvLWl0cy1vd24tZ3Vlc3Qu";
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap_or_default();
                let holds =
                    |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
                if holds(CANARY) || holds(base64) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    found
}

/// The process of the one task that a home has.
fn worker_of_the_task(stage: &Stage) -> Option<i32> {
    let folder = fs::read_dir(stage.home().join("tasks")).ok()?.flatten().next()?.path();
    let status: Value = serde_json::from_slice(&fs::read(folder.join("status.json")).ok()?).ok()?;
    status["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
}

#[test]
fn a_secret_that_is_handed_in_is_a_file_of_the_guest_and_nowhere_else() {
    let stage = Stage::new();
    let key = stage.write("key", CANARY.repeat(REPEATS));
    let key = format!("key={}", key.display());
    let read = |flags: &[&str]| {
        stage.margay([&["run"], flags, &[&probe(), "read", "/run/secrets/key"]].concat())
    };
    assert_eq!(read(&["--secret", &key]).ok(), "read 4242 bytes\n");
    assert_eq!(read(&["--secret", &key, "--allow", "secret:key"]).ok(), "read 4242 bytes\n");
    assert!(read(&[]).out.starts_with("read: "));
    assert!(read(&["--secret", &key, "--allow", "secret:key;as=env"]).out.starts_with("read: "));
    let said = stage
        .margay(["run", "--secret", &key, "--allow", "secret:key;as=env", &probe(), "env"])
        .ok();
    assert_eq!(said, format!("key={}\n", CANARY.repeat(REPEATS)));
    let err = read(&["--allow", "secret:key"]).fails(125);
    let want = "error: secret `key` is granted but no value was provided\nhint: hand it in: --secret key=FILE\n";
    assert_eq!(err, want);
    let err = read(&["--secret", &key, "--allow", "secret:other"]).fails(125);
    assert!(err.contains("secret `other` is granted"), "{err}");

    let detached =
        ["run", "-d", "--name", "kept", "--secret", &key, &probe(), "read", "/run/secrets/key"];
    stage.margay(detached).ok();
    eventually("it has read it", || {
        (stage.margay(["logs", "kept"]).out == "read 4242 bytes\n").then_some(())
    });
    let inspected = stage.margay(["inspect", "kept"]).ok();
    assert!(inspected.contains("\"secret:key\"") && !inspected.contains(CANARY), "{inspected}");
    // The log of the guest that was asked to print its variables is the guest's own doing.
    let tasks = stage.home().join("tasks");
    let kept =
        fs::read_dir(&tasks).expect("tasks").flatten().map(|entry| entry.path().join("task.json"));
    assert!(
        kept.into_iter()
            .all(|path| !fs::read_to_string(&path).unwrap_or_default().contains(CANARY))
    );
    stage.is_empty();
}

#[test]
fn a_secret_that_is_none_is_refused_in_words() {
    let stage = Stage::new();
    let (empty, large) = (stage.write("empty", ""), stage.write("large", vec![b'x'; 65_537]));
    let (empty, large) = (format!("key={}", empty.display()), format!("key={}", large.display()));
    for (flag, code, want) in [
        ("key", 2, "it is not NAME=FILE"),
        ("key=", 2, "it is not NAME=FILE"),
        ("../key=x", 2, "`../key` cannot name a secret"),
        ("key=/no/such/file", 125, "cannot read a secret from `/no/such/file`"),
        (empty.as_str(), 125, "a secret needs at least one byte"),
        (large.as_str(), 125, "a secret has at most 65536 bytes"),
        ("key=/dev/zero", 125, "a secret has at most 65536 bytes"),
    ] {
        let err = stage.margay(["run", "--secret", flag, &probe(), "args"]).fails(code);
        assert!(err.contains(want), "{flag}: {err}");
    }
}

#[test]
fn a_secret_reaches_the_task_whose_role_grants_it_and_no_log_record_or_disk() {
    let stage = Stage::new();
    let up = Up::start_loud(&stage);
    let outside = tempfile::tempdir().expect("a folder");
    let key = outside.path().join("key");
    fs::write(&key, CANARY.repeat(REPEATS)).expect("a key");
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    build(&stage, "httpd").ok();
    let image = format!("{}/me/httpd:v1", up.registry);
    stage.margay(["tag", "httpd", &image]).ok();
    stage.margay(["push", &image]).ok();
    let text = "family = \"keys\"\n[role]\nallow = [\"secret:key\"]\n[[containers]]\nname = \"keys\"\nimage = \"httpd:v1\"\n\
                env = { HTTPD_ROOT = \"/run/secrets\" }\nports = [{ container_port = 80 }]\n";
    let definition = stage.write("keys.toml", text).display().to_string();
    stage.margay(["cluster", "create", "c"]).ok();
    let registered = stage.margay(["task", "register", &definition]);
    assert!(
        registered.err.contains("`key` is not there yet: margay secret create key FILE"),
        "{registered:?}"
    );
    stage
        .margay(["service", "create", "--detach", "keys", "--task", "keys:1", "--cluster", "c"])
        .ok();
    let waits = || stage.margay(["service", "ls", "--output", "json"]).ok();
    eventually("it says what it waits for", || {
        waits().contains("margay secret create key FILE").then_some(())
    });

    let file = key.display().to_string();
    assert_eq!(stage.margay(["secret", "create", "key", &file]).ok(), "key\n");
    let err = stage.margay(["secret", "create", "key", &file]).fails(1);
    assert!(
        err.contains("a secret `key` is there already") && err.contains("margay secret rm key"),
        "{err}"
    );
    assert_eq!(stage.margay_fed(["secret", "create", "piped", "-"], "hunter2").ok(), "piped\n");
    let body = CANARY.repeat(REPEATS).into_bytes();
    let serves = || {
        get(&up.ingress, "keys.c.localhost", "/key").filter(|answer| answer.body == body).map(drop)
    };
    eventually("the guest reads it", serves);

    // A new agent asks again, so that a worker which ends after that is started with it.
    let agent = up.pid(&stage, "node");
    signal(agent, "KILL");
    eventually("the agent is back", || {
        up.pid_of(&stage, "node").filter(|pid| *pid != agent).map(drop)
    });
    let worker = || worker_of_the_task(&stage);
    for _ in 0..2 {
        let before = eventually("there is a worker", worker);
        signal(before, "KILL");
        eventually("there is another", || worker().filter(|now| *now != before));
        eventually("the guest reads it again", serves);
    }

    let said: Vec<String> = [
        &["secret", "ls"][..],
        &["secret", "ls", "--output", "json"],
        &["secret", "inspect", "key", "piped"],
        &["task", "ls", "--output", "json"],
        &["task", "definitions", "--output", "json"],
        &["ps"],
        &["service", "ls", "--output", "json"],
    ]
    .into_iter()
    .map(|arguments| stage.margay(arguments).ok())
    .collect();
    let inspected: Value = serde_json::from_str(&said[2]).expect("JSON");
    assert_eq!(
        (&inspected[0]["name"], &inspected[0]["size_bytes"]),
        (&"key".into(), &4242.into()),
        "{inspected}"
    );
    assert!(
        said.iter().all(|text| !text.contains(CANARY) && !text.contains("hunter2")),
        "{said:?}"
    );
    let tasks: Value = serde_json::from_str(&said[3]).expect("JSON");
    let task = tasks[0]["id"].as_str().expect("a task");
    assert!(!stage.margay(["inspect", task]).ok().contains(CANARY));

    let err = stage.margay(["secret", "rm", "key"]).fails(1);
    assert!(err.contains("secret `key` is in use by service `keys` in `c`"), "{err}");
    assert_eq!(stage.margay(["secret", "rm", "piped"]).ok(), "piped\n");
    stage.margay(["service", "delete", "keys", "--cluster", "c"]).ok();
    eventually("nothing uses it", || {
        (stage.margay(["secret", "rm", "key"]).code == 0).then_some(())
    });
    let err = stage.margay(["secret", "inspect", "key"]).fails(1);
    assert!(err.contains("there is no secret `key`"), "{err}");
    let said = up.end();
    assert!(said.err.contains("handed secrets over"), "the log is on: {}", said.err);
    assert!(!said.err.contains(CANARY), "{}", said.err);
    assert_eq!(found_in(&stage.home()), [""; 0], "on the disk");
    stage.is_empty();
}
