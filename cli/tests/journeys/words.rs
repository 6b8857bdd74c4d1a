//! Help, completions, doctor, and the words for misuse.

use crate::stage::Stage;

#[test]
fn misuse_exits_with_2_and_says_how_to_ask() {
    let stage = Stage::new();
    for (arguments, want) in [
        (vec!["frobnicate"], "`margay frobnicate` is no verb"),
        (vec!["run"], "required arguments were not provided"),
        (vec!["run", "-p", "x", "hello"], "invalid value 'x' for '--publish"),
        (vec!["build", "-t", "Cats", "."], "use lower case"),
        (vec!["tag", "hello"], "required arguments were not provided"),
        (vec!["run", "-m", "0", "hello"], "use 1MiB or more"),
        (vec!["run", "-v", "a:/x", "-v", "b:/x", "hello"], "something is mounted at `/x` twice"),
        (vec!["run", "--name", "no/name", "hello"], "no/name"),
        (
            vec!["service", "update", "cats", "--cluster", "c"],
            "<--task <FAMILY:REVISION>|--count <COUNT>|--min-healthy <PERCENT>|",
        ),
        (vec![], "Usage: margay"),
    ] {
        let err = stage.margay(&arguments).fails(2);
        assert!(err.contains(want), "margay {arguments:?}: {err}");
    }
}

#[test]
fn what_docker_has_and_is_absent_here_is_named_with_the_reason_and_a_substitute() {
    let stage = Stage::new();
    for (line, error, hint) in [
        ("pause app", "Docker's `pause` is absent here: ", "`margay stop TASK`"),
        ("network create back", "Docker's `network create` is absent here: ", "-p PORT:PORT"),
        ("compose up", "Docker's `compose` is absent here: ", "margay service create"),
        ("swarm init", "Docker's `swarm init` is absent here: ", "margay node join"),
        ("service rollback x", "Docker's `service rollback` is absent here: ", "rollout undo"),
        ("run --privileged app", "Docker's `--privileged` is absent in `margay run`: ", "--allow"),
        ("run --gpus all app", "Docker's `--gpus` is absent in `margay run`: ", "leave it out"),
        ("run --device=/dev/x app", "Docker's `--device` is absent in `margay run`: ", "leave"),
        ("-H tcp://x ps", "Docker's `-H` is absent in `margay`: ", "--credential"),
        (
            "run --registry-timout 1s app",
            "`margay run` has no flag `--registry-timout`",
            "`--registry-timeout`",
        ),
        ("run --shepherd app", "`margay run` has no flag `--shepherd`", "margay run --help"),
        ("stpo app", "`margay stpo` is no verb", "did you mean `stop`?"),
        ("secret frobnicate", "`margay secret frobnicate` is no verb", "margay secret --help"),
    ] {
        let err = stage.margay(line.split(' ')).fails(2);
        assert!(err.starts_with(&format!("error: {error}")), "margay {line}: {err}");
        let (_, said) = err.split_once("\nhint: ").unwrap_or_else(|| panic!("{line}: {err}"));
        assert!(said.contains(hint) && said.lines().count() == 1, "margay {line}: {err}");
    }
    assert!(!stage.home().exists());
}

#[test]
fn a_usage_line_names_what_is_required_and_nothing_that_has_a_default() {
    let stage = Stage::new();
    for (line, usage) in [
        ("invoke", "Usage: margay invoke [OPTIONS] <IMAGE>"),
        ("logs", "Usage: margay logs [OPTIONS] <TASK|SERVICE>"),
        (
            "service create --cluster c",
            "Usage: margay service create [OPTIONS] --task <FAMILY:REVISION> --cluster <NAME> <NAME>",
        ),
    ] {
        let err = stage.margay(line.split(' ')).fails(2);
        assert!(err.contains(usage), "margay {line}: {err}");
    }
}

#[test]
fn boolean_flags_take_a_value_as_in_docker() {
    let stage = Stage::new();
    let hello = crate::stage::samples().join("hello/hello.wasm").display().to_string();
    stage.margay(["run", "--rm=true", "-i=false", &hello]).ok();
    assert_eq!(stage.margay(["ps", "-a=1", "-q=true"]).ok(), "");
    stage.margay(["run", "--rm", "--rm=false", &hello]).ok();
    assert_eq!(stage.margay(["ps", "-aq"]).ok().lines().count(), 1);
    let err = stage.margay(["run", "--rm=perhaps", &hello]).fails(2);
    assert!(err.contains("use true or false"), "{err}");
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
        let asks = script.contains("margay complete") || script.contains("images");
        assert!(asks, "{shell}: {script}");
    }
    let said = stage.margay(["complete", "--", "margay images"]).ok();
    assert_eq!(said, "images\tList local images\n");
    assert!(!stage.home().exists());
}

#[test]
fn a_shell_completes_the_names_of_tasks_and_images() {
    let stage = Stage::new();
    let hello = crate::stage::samples().join("hello/hello.wasm").display().to_string();
    stage.margay(["run", "--name", "tom", &hello]).ok();
    crate::images::build(&stage, "hello").ok();
    stage.write("margay.bash", stage.margay(["completions", "bash"]).ok());
    // As bash splits the line: a colon ends a word.
    let script = r#"
        source margay.bash
        complete_line() {
            COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
            _margay; printf '%s\n' "${COMPREPLY[@]}"
        }
        complete_line "margay rm t" margay rm t
        complete_line "margay run --rm hello:la" margay run --rm hello : la
        complete_line "margay run --pu" margay run --pu
    "#;
    let margay = stage.command([""; 0]).get_program().to_owned();
    let folder = std::path::Path::new(&margay).parent().expect("a folder").display().to_string();
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script]).env_clear().current_dir(stage.path("."));
    command.env("MARGAY_HOME", stage.home()).env("PATH", format!("{folder}:/usr/bin:/bin"));
    let output = command.output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "tom\nlatest\n--publish\n--publish-all\n--pull\n", "{output:?}");
}

#[test]
fn doctor_names_every_check_and_gives_a_next_step_for_what_is_missing() {
    let stage = Stage::new();
    let said = stage.margay(["doctor", "--output", "json"]);
    let checks: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let checks = checks.as_array().expect("a list");
    for name in [
        "kernel",
        "Landlock",
        "seccomp",
        "openat2",
        "namespaces",
        "native: oci-runtime",
        "MARGAY_HOME",
        "free space",
    ] {
        assert!(
            checks.iter().any(|check| check["name"] == name),
            "no check `{name}`: {}",
            said.out
        );
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
    // A folder that is in use keeps its mode.
    stage.write("project/notes", "mine");
    std::fs::set_permissions(stage.path("project"), std::fs::Permissions::from_mode(0o755))
        .expect("a mode");
    let err = stage.margay(["--home", "project", "images"]).fails(1);
    assert!(err.contains("is open to others (mode 755)") && err.contains("hint: "), "{err}");
    let mode = std::fs::metadata(stage.path("project")).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    stage.write("file", "not a folder");
    let err = stage.margay(["--home", "file/home", "images"]).fails(1);
    assert!(err.starts_with("error: ") && err.contains("file/home"), "{err}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let stage = Stage::new();
    let mut command = stage.command(["--help"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("margay starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("margay ends");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}

#[test]
fn a_full_disk_behind_stdout_is_an_error() {
    let stage = Stage::new();
    crate::images::build(&stage, "hello").ok();
    let hello = crate::stage::samples().join("hello/hello.wasm").display().to_string();
    stage.margay(["run", "--name", "done", &hello]).ok();
    for arguments in [
        &["images"][..],
        &["ps", "-a"],
        &["logs", "done"],
        &["inspect", "hello"],
        &["completions", "bash"],
        &["save", "hello"],
    ] {
        let mut command = stage.command(arguments);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        command.stdout(full).stderr(std::process::Stdio::piped());
        let output = command.output().expect("margay runs");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {err}");
        assert!(
            err.contains("stdout") && err.contains("No space left on device"),
            "{arguments:?}: {err}"
        );
    }
}
