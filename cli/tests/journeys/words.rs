//! Help, completions, doctor, and the words for misuse.

use crate::stage::Stage;

#[test]
fn misuse_exits_with_2_and_says_how_to_ask() {
    let stage = Stage::new();
    for (arguments, want) in [
        (vec!["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (vec!["run"], "required arguments were not provided"),
        (vec!["run", "-p", "x", "hello"], "invalid value 'x' for '--publish"),
        (vec!["build", "-t", "Cats", "."], "use lower case"),
        (vec!["tag", "hello"], "required arguments were not provided"),
    ] {
        let err = stage.margay(&arguments).fails(2);
        assert!(err.contains(want), "margay {arguments:?}: {err}");
    }
}

#[test]
fn help_shows_every_verb_and_version_says_one_line() {
    let stage = Stage::new();
    let help = stage.margay(["--help"]).ok();
    for verb in ["build", "run", "push", "up", "service", "doctor"] {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb} is not in: {help}");
    }
    let version = stage.margay(["version"]).ok();
    assert!(version.starts_with("margay 0.") && version.lines().count() == 1, "{version}");
    assert!(stage.margay(["version", "--output", "json"]).ok().contains("\"version\""));
    assert!(stage.margay(["--version"]).ok().starts_with("margay 0."));
}

#[test]
fn completions_exist_for_every_shell_and_need_no_home() {
    let stage = Stage::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stage.margay(["completions", shell]).ok();
        assert!(script.contains("margay") && script.contains("images"), "{shell}: {script}");
    }
    assert!(!stage.home().exists());
}

#[test]
fn doctor_names_every_check_and_gives_a_next_step_for_what_is_missing() {
    let stage = Stage::new();
    let said = stage.margay(["doctor", "--output", "json"]);
    let checks: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let checks = checks.as_array().expect("a list");
    for name in
        ["kernel", "Landlock", "seccomp", "openat2", "namespaces", "native: oci-runtime", "MARGAY_HOME", "free space"]
    {
        assert!(checks.iter().any(|check| check["name"] == name), "no check `{name}`: {}", said.out);
    }
    for check in checks {
        assert_eq!(check["verdict"] == "ok", check["next"].is_null(), "{check}");
    }
    let failed = checks.iter().any(|check| check["verdict"] == "fail");
    assert_eq!(said.code, i32::from(failed));
    assert!(stage.margay(["doctor"]).out.contains("kernel"));
}

#[test]
fn a_home_is_private_and_one_that_cannot_be_made_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let stage = Stage::new();
    stage.margay(["images"]).ok();
    let mode = std::fs::metadata(stage.home()).expect("a home").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    stage.write("file", "not a folder");
    let err = stage.margay(["--home", "file/home", "images"]).fails(1);
    assert!(err.starts_with("error: ") && err.contains("file/home"), "{err}");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let stage = Stage::new();
    let mut command = stage.command(["--help"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("margay starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("margay ends");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}
