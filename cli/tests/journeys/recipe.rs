//! Pages whose commands run as they stand: what is in them, what their languages need, and the
//! commands themselves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::stage::{Stage, samples};

/// A fenced block: what stands behind the fence, and what is in it.
struct Block {
    info: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found = vec![];
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```");
            let text = text.map(|line| format!("{line}\n")).collect();
            found.push(Block { info: info.to_owned(), text });
        }
    }
    found
}

/// Why the commands of a page cannot run here. Programs come from Debian and the installed
/// languages, packages from the network.
fn missing(language: &str) -> Option<String> {
    let needed: &[&str] = match language {
        "rust" => &["cargo --version"],
        "go" => &["go version"],
        "c" => &["clang --target=wasm32-wasi -mexec-model=reactor -x c /dev/null -o /dev/null"],
        "registry" => &["curl --version"],
        "javascript" => &["node --version", "npm view @bytecodealliance/componentize-js version"],
        _ => &["python3 -m venv --help", "curl -sSfm 20 -o /dev/null https://pypi.org/simple/"],
    };
    let fails = |command: &&&str| {
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", command]).stdout(Stdio::null()).stderr(Stdio::null());
        !shell.status().is_ok_and(|status| status.success())
    };
    needed.iter().find(fails).map(|command| format!("`{command}` fails"))
}

/// The packages of npm and PyPI, kept from one run to the next.
fn cache(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients").join(kind)
}

/// What makes Rust build for WASI on a machine without the target: Debian's, when it was unpacked.
fn prelude(language: &str) -> Result<String, String> {
    if language != "rust" {
        return Ok(String::new());
    }
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = sysroot.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
    let target = sysroot.map(|root| Path::new(&root).join("lib/rustlib/wasm32-wasip2/lib"));
    if target.is_ok_and(|target| target.is_dir()) {
        return Ok(String::new());
    }
    let home = std::env::var("HOME").unwrap_or_default();
    if !Path::new(&home).join(".cache/margay-guest-rust/.ok").exists() {
        return Err("neither rustup nor Debian's rustc-web has the target wasm32-wasip2".to_owned());
    }
    let environment = samples().join("guest-env.sh");
    Ok(format!(". {}\nexport CARGO_UNSTABLE_BUILD_STD=std,panic_abort\n", environment.display()))
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// The commands and the outputs of a page.
pub struct Recipe {
    /// What the page is called in messages.
    pub name: String,
    blocks: Vec<Block>,
}

impl Recipe {
    /// The page at `path` of the source tree.
    pub fn of(path: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let page = fs::read_to_string(file).expect("the page");
        Self { name: path.to_owned(), blocks: blocks(&page) }
    }

    /// What the page shows of files, each with its path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = |block: &'_ Block| match block.info.split_once(' ') {
            Some(("text" | "sh", _)) | None => false,
            Some(_) => true,
        };
        let files = self.blocks.iter().filter(move |block| named(block));
        files.map(|block| (block.info.split_once(' ').expect("a name").1, block.text.as_str()))
    }

    /// Runs its commands in `folder` of `stage`, and compares what they print with what the page
    /// shows. Says which tool is missing, if one is; then nothing ran.
    pub fn follow(&self, stage: &Stage, folder: &str, language: &str) -> bool {
        let prelude = match (missing(language), prelude(language)) {
            (Some(why), _) | (None, Err(why)) => {
                println!("SKIPPED: {} was not followed: {why}", self.name);
                return false;
            }
            (None, Ok(prelude)) => prelude,
        };
        let commands = self.blocks.iter().filter(|block| block.info == "sh run");
        let commands: String = commands.map(|block| block.text.as_str()).collect();
        assert!(!commands.is_empty(), "the commands of {}", self.name);
        // Another server may have the port of the page.
        let port = free_port().to_string();
        // A server that a page starts ends with its commands, also when one of them fails.
        let end = "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT";
        let script = format!("set -eu\n{end}\n{prelude}{}", commands.replace("8080", &port));
        let binary = Path::new(env!("CARGO_BIN_EXE_margay")).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let said = Command::new("bash")
            .args(["-c", &script])
            .current_dir(stage.path(folder))
            .env("MARGAY_HOME", stage.home())
            .env("PATH", format!("{}:{path}", binary.display()))
            .env("npm_config_cache", cache("npm"))
            .env("PIP_CACHE_DIR", cache("pip"))
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        let out = String::from_utf8_lossy(&said.stdout);
        let err = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{}: {out}\n{err}", self.name);
        for block in self.blocks.iter().filter(|block| block.info == "text output") {
            for line in block.text.lines() {
                assert!(out.contains(&format!("{line}\n")), "{}: `{line}`: {out}", self.name);
            }
        }
        true
    }
}
