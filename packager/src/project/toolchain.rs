use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use super::{
    language::{Language, ProgramKind},
    recognise::Project,
};

/// The compilers from registries, in the versions that the guide and its tests use.
pub(super) const COMPONENTIZE_JS: &str = "@bytecodealliance/componentize-js@0.23.0";
pub(super) const COMPONENTIZE_PY: &str = "componentize-py==0.25.0";

/// Writes what a build needs beside the sources, and the first ones.
const INIT: &str = "margay init";
/// The first Go that exports functions to the host.
const GO_HTTP: u32 = 24;
/// The first Go that compiles for WASI.
const GO_COMMAND: u32 = 21;

impl Project {
    /// The commands that build the program on this machine, one after the other: first those that
    /// install what is missing. A line that is no command begins with `#`.
    pub fn steps(&self) -> Vec<String> {
        let mut steps = match self.language {
            Language::Rust => rust(),
            Language::Go => go(self.kind),
            Language::C => c(),
            Language::JavaScript => javascript(&self.folder),
            Language::Python => python(&self.folder),
        };
        if let Some(problem) = &self.unclear {
            steps.insert(0, format!("# {}", problem.hint()));
        } else if !self.is_begun && !steps.iter().any(|step| step == INIT) {
            steps.insert(0, INIT.to_owned());
        }
        steps.push(self.build_command());
        steps
    }

    /// What is missing on this machine, as [`Self::steps`] without the build.
    pub fn missing(&self) -> Vec<String> {
        let mut steps = self.steps();
        steps.pop();
        steps
    }

    /// The build command of `margay.toml`: it brings what a package manager has for one folder.
    pub(super) fn build_line(&self) -> String {
        let build = self.build_command();
        match self.language {
            Language::Rust | Language::Go | Language::C => build,
            Language::JavaScript => format!("test -d node_modules || npm install && {build}"),
            Language::Python => {
                format!("test -x .venv/bin/componentize-py || ({}) && {build}", venv())
            }
        }
    }
}

/// Several steps as one line for a shell.
pub(crate) fn one_line(steps: &[String]) -> String {
    let (comments, commands): (Vec<_>, Vec<_>) =
        steps.iter().partition(|step| step.starts_with('#'));
    let comments = comments.iter().map(|step| step.trim_start_matches("# ").to_owned());
    let commands = commands.into_iter().map(String::as_str).collect::<Vec<_>>().join(" && ");
    let commands = (!commands.is_empty()).then_some(commands);
    comments.chain(commands).collect::<Vec<_>>().join("; then: ")
}

fn rust() -> Vec<String> {
    if !is_installed("cargo") {
        return vec![
            "# install Rust: https://rustup.rs".to_owned(),
            "rustup target add wasm32-wasip2".to_owned(),
        ];
    }
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let sysroot = output(&rustc, &["--print", "sysroot"]).unwrap_or_default();
    let target = Path::new(sysroot.trim()).join("lib/rustlib/wasm32-wasip2/lib");
    match (target.is_dir(), is_installed("rustup")) {
        (true, _) => vec![],
        (false, true) => vec!["rustup target add wasm32-wasip2".to_owned()],
        (false, false) => vec![
            "# this Rust has no WASI target, install it from https://rustup.rs".to_owned(),
            "rustup target add wasm32-wasip2".to_owned(),
        ],
    }
}

fn go(kind: ProgramKind) -> Vec<String> {
    let needed = match kind {
        ProgramKind::Http => GO_HTTP,
        ProgramKind::Command => GO_COMMAND,
    };
    let found = output("go", &["env", "GOVERSION"]);
    match found.as_deref().map(go_minor) {
        // A version of its own kind, as `devel`, is new.
        Some(None) => vec![],
        Some(Some(minor)) if minor >= needed => vec![],
        Some(Some(_)) | None => {
            vec![format!("# install Go 1.{needed} or newer: https://go.dev/dl")]
        }
    }
}

/// The 26 of `go1.26.8`.
fn go_minor(version: &str) -> Option<u32> {
    let rest = version.trim().strip_prefix("go1.")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn c() -> Vec<String> {
    let empty = ["--target=wasm32-wasi", "-x", "c", "/dev/null", "-o", "/dev/null"];
    // A library with nothing in it needs the linker, the C library and the compiler's own.
    let probe = Command::new("clang")
        .args(["-mexec-model=reactor"])
        .args(empty)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match probe {
        Ok(status) if status.success() => vec![],
        Ok(_) | Err(_) if is_installed("apt-get") => {
            let packages = "clang lld wasi-libc libclang-rt-dev-wasm32";
            let root = if rustix::process::geteuid().is_root() { "" } else { "sudo " };
            vec![format!("{root}apt-get install {packages}")]
        }
        Ok(_) | Err(_) => vec![
            "# install a clang for WASI: https://github.com/WebAssembly/wasi-sdk/releases"
                .to_owned(),
        ],
    }
}

fn javascript(folder: &Path) -> Vec<String> {
    let mut steps = vec![];
    if !is_installed("node") || !is_installed("npm") {
        steps.push("# install Node.js 20 or newer: https://nodejs.org".to_owned());
    }
    if !folder.join("build.mjs").is_file() {
        steps.push(INIT.to_owned());
    }
    if !folder.join("node_modules/@bytecodealliance/componentize-js").is_dir() {
        let package = fs::read_to_string(folder.join("package.json")).unwrap_or_default();
        steps.push(match package.contains("componentize-js") {
            true => "npm install".to_owned(),
            false => format!("npm install --save-dev {COMPONENTIZE_JS}"),
        });
    }
    steps
}

fn python(folder: &Path) -> Vec<String> {
    let mut steps = vec![];
    if !is_installed("python3") {
        steps.push("# install Python 3.10 or newer: https://www.python.org".to_owned());
    }
    if !folder.join("wit").is_dir() {
        steps.push(INIT.to_owned());
    }
    if !folder.join(".venv/bin/componentize-py").is_file() {
        steps.push(venv());
    }
    steps
}

fn venv() -> String {
    format!("python3 -m venv .venv && .venv/bin/pip install -q {COMPONENTIZE_PY}")
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// What a program prints, when it is there and succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_become_one_line() {
        for (steps, want) in [
            (&["b"][..], "b"),
            (&["a", "b"], "a && b"),
            (&["# install Go: URL", "b"], "install Go: URL; then: b"),
            (&["# install Go: URL"], "install Go: URL"),
        ] {
            let steps: Vec<_> = steps.iter().map(|step| (*step).to_owned()).collect();
            assert_eq!(one_line(&steps), want);
        }
    }

    #[test]
    fn the_version_of_go_is_read() {
        for (text, want) in [
            ("go1.26.8\n", Some(26)),
            ("go1.24", Some(24)),
            ("go1.25rc1", Some(25)),
            ("devel go1.27-abc", None),
            ("", None),
        ] {
            assert_eq!(go_minor(text), want, "{text}");
        }
    }
}
