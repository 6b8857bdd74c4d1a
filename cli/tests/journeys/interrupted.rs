//! A signal that ends a verb in the middle: what the verb made on its way goes.

use std::{
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
};

use crate::stage::{Stage, eventually, signal};

/// As a shell has it.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().expect("killed"))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_build_from_a_pipe_that_is_interrupted_leaves_no_folder() {
    let stage = Stage::new();
    let temporary = stage.path("tmp");
    fs::create_dir(&temporary).expect("a folder");
    for (name, want) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut command = stage.command(["build", "-t", "x", "-"]);
        command.env("TMPDIR", &temporary).stdin(Stdio::piped());
        let mut child = command.spawn().expect("margay starts");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(b"FROM scratch\n").expect("it reads");
        eventually("it reads", || (!names(&temporary).is_empty()).then_some(()));
        signal(child.id().cast_signed(), name);
        assert_eq!(code(child.wait().expect("it ends")), want, "{name}");
        assert_eq!(names(&temporary), [""; 0], "{name}");
        drop(input);
    }
    // A signal that it was started to ignore, as by `nohup`, ends nothing.
    let line =
        "trap '' HUP; exec margay build -t x -".replace("margay", env!("CARGO_BIN_EXE_margay"));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &line]).env("MARGAY_HOME", stage.home());
    command.env("TMPDIR", &temporary).stdin(Stdio::piped());
    let mut child = command.spawn().expect("margay starts");
    let mut input = child.stdin.take().expect("piped");
    eventually("it reads", || (!names(&temporary).is_empty()).then_some(()));
    signal(child.id().cast_signed(), "HUP");
    input.write_all(b"FROM scratch\nLABEL a=b\n").expect("it reads");
    drop(input);
    assert_eq!(code(child.wait().expect("it ends")), 0);
    assert_eq!(names(&temporary), [""; 0]);
}

#[test]
fn a_save_that_is_interrupted_leaves_no_file() {
    let stage = Stage::new();
    let mut bytes = vec![0u8; 48 << 20];
    // No compression makes less of it.
    let mut state = 1u64;
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    stage.write("app/large", bytes);
    stage.write("app/Dockerfile", "FROM scratch\nCOPY large /\n");
    stage.margay(["build", "-t", "large", "app"]).ok();
    let folder = stage.path("out");
    fs::create_dir(&folder).expect("a folder");
    let file = folder.join("large.tar").display().to_string();
    let saving = stage.start(["save", "-o", &file, "large"]);
    eventually("it writes", || (!names(&folder).is_empty()).then_some(()));
    saving.signal("INT");
    let said = saving.end();
    // On a fast disk it may have ended before.
    let want = if said.code == 0 { vec!["large.tar"] } else { vec![] };
    assert_eq!(names(&folder), want, "{}: {}", said.code, said.err);
    assert!([0, 130].contains(&said.code), "{}: {}", said.code, said.err);
}
