//! Set-user-id, set-group-id and sticky bits, from the context of a build to a running container
//! and back, as BuildKit and Docker keep them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use crate::{native, stage::Stage};

/// Of files and folders: each bit alone, with others, and all of them.
const MODES: [u32; 5] = [0o4755, 0o2755, 0o1777, 0o6711, 0o7777];

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// A folder of the context with files and folders of each mode.
fn fill(stage: &Stage) {
    for mode in MODES {
        let file = stage.write(&format!("in/f{mode:o}"), "x");
        let inner = stage.write(&format!("in/d{mode:o}/f"), "x");
        set_mode(&inner, mode);
        set_mode(inner.parent().expect("a folder"), mode);
        set_mode(&file, mode);
    }
    let tar = ["cf", "add.tar", "-C", "in", "."];
    let made = Command::new("tar").args(tar).current_dir(stage.path("")).status();
    assert!(made.expect("tar").success());
}

/// What `stat` says of the copies below `folder` of the task or image that `run` enters.
fn holds_all(stage: &Stage, enter: &[&str], folder: &str) {
    for mode in MODES {
        for name in [format!("f{mode:o}"), format!("d{mode:o}"), format!("d{mode:o}/f")] {
            let path = format!("{folder}/{name}");
            let stat = ["/bin/busybox", "stat", "-c", "%a", &path];
            let said = stage.margay(enter.iter().chain(&stat)).ok();
            assert_eq!(said.trim(), format!("{mode:o}"), "{path}");
        }
    }
}

#[test]
fn special_modes_survive_build_save_load_run_and_copies() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    fill(&stage);
    let steps = "COPY in/ /copy/\nADD add.tar /add/\nCOPY --chmod=4711 in/f1777 /octal\n\
                 COPY --chmod=u+s,g+s in/f1777 /symbolic\nCOPY --chown=7:8 in/f6711 /owned\n\
                 CMD [\"/bin/sleep\", \"600\"]";
    native::build(&stage, "special", steps);
    stage.margay(["save", "-o", "special.tar", "special"]).ok();
    stage.margay(["rmi", "special"]).ok();
    stage.margay(["load", "-i", "special.tar"]).ok();
    stage.margay(["run", "-d", "--name", "tom", "special"]).ok();
    let exec = ["exec", "tom"];
    holds_all(&stage, &exec, "/copy");
    holds_all(&stage, &exec, "/add");
    for (path, want) in [("/octal", "4711 0"), ("/symbolic", "7777 0"), ("/owned", "6711 7")] {
        let stat = ["exec", "tom", "/bin/busybox", "stat", "-c", "%a %u", path];
        assert_eq!(stage.margay(stat).ok().trim(), want, "{path}");
    }
    // In and out, and in again where it does not run.
    stage.margay(["cp", "in", "tom:/in"]).ok();
    holds_all(&stage, &exec, "/in");
    stage.margay(["cp", "-a", "tom:/in", "out"]).ok();
    for mode in MODES {
        for name in [format!("f{mode:o}"), format!("d{mode:o}/f")] {
            let kept = fs::metadata(stage.path("out").join(&name)).expect("a file");
            assert_eq!(kept.permissions().mode() & 0o7777, mode, "{name}");
        }
    }
    stage.margay(["stop", "-t", "0", "tom"]).ok();
    stage.margay(["cp", "out", "tom:/again"]).ok();
    stage.margay(["start", "tom"]).ok();
    holds_all(&stage, &exec, "/again");
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn a_set_user_id_program_of_an_image_gives_its_rights_unless_it_may_not() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    // BusyBox gives up such rights by itself.
    let source = "#include <stdio.h>\n#include <unistd.h>\n\
                  int main() { printf(\"%d %d\\n\", getuid(), geteuid()); }\n";
    stage.write("users.c", source);
    let cc = ["-static", "-o", "users", "users.c"];
    let built = Command::new("cc").args(cc).current_dir(stage.path("")).status();
    assert!(built.expect("a C compiler, which Rust links with").success());
    native::build(&stage, "special", "COPY --chmod=4755 users /users\nCMD [\"/users\"]");
    for (flags, want) in
        [(&[][..], "1000 0"), (&["--security-opt", "no-new-privileges"], "1000 1000")]
    {
        let run = ["run", "--rm", "-u", "1000"].iter().chain(flags);
        let said = stage.margay(run.chain(&["special"])).ok();
        assert_eq!(said.trim(), want, "{flags:?}");
    }
    stage.is_empty();
}
