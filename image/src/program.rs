use spec::ExecutionConfig;

use crate::{
    error::Error,
    index::{FileIndex, FileNode, Node},
    kind::Kind,
    limits::HEAD_BYTES,
    plan::{Plan, Program, env_value},
    sniff::{Sniffed, sniff},
};

/// The program of an image, found and recognised by its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The engine that runs it.
    pub kind: Kind,
    /// The kind of file that its first bytes name.
    pub sniffed: Sniffed,
    /// Its path in the image; `None` when it is a layer of its own.
    pub path: Option<String>,
    /// The location of its bytes.
    pub file: FileNode,
}

/// Where a native program without a `/` is looked for, unless the image says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds the program of `plan` in its merged layers and says what it is. `read` gives the first
/// bytes of a file.
///
/// # Errors
/// [`Error::NoProgram`] when there is none, [`Error::Precompiled`] when it is machine code from
/// elsewhere.
pub fn locate(
    plan: &Plan,
    index: &FileIndex,
    read: impl FnOnce(FileNode, u64) -> std::io::Result<Vec<u8>>,
) -> Result<Located, Error> {
    let (path, file) = match &plan.program {
        Program::Layer(at) => {
            let len = plan.layers.get(*at).map_or(0, |layer| layer.descriptor.size);
            (None, FileNode { layer: *at as u32, offset: 0, len, mode: 0o755, mtime: 0 })
        }
        Program::File { name } => {
            let (path, file) = find(plan, index, name)?;
            (Some(path), file)
        }
    };
    let what =
        path.as_deref().map_or_else(|| "the Wasm layer".to_owned(), |path| format!("`{path}`"));
    let head = read(file, file.len.min(HEAD_BYTES))
        .map_err(|source| Error::Read { what: what.clone(), source })?;
    let sniffed = sniff(&head);
    let kind = match sniffed {
        Sniffed::Module | Sniffed::Component => Kind::Wasm,
        Sniffed::Cwasm => return Err(Error::Precompiled { what }),
        Sniffed::Elf | Sniffed::Script if path.is_some() => Kind::Native,
        other => {
            let why = format!("its first bytes are those of {}", other.name());
            return Err(match plan.kind_hint() {
                Kind::Wasm => Error::NotWasm { what, why },
                Kind::Native => Error::NoProgram { why: format!("{what} cannot be run, {why}") },
            });
        }
    };
    Ok(Located { kind, sniffed, path, file })
}

fn find(plan: &Plan, index: &FileIndex, name: &str) -> Result<(String, FileNode), Error> {
    if name.is_empty() {
        return Err(Error::NoProgram { why: "neither ENTRYPOINT nor CMD names one".to_owned() });
    }
    let candidates = program_paths(plan.execution(), plan.kind_hint(), name);
    for path in &candidates {
        let Ok(id) = index.lookup(path) else { continue };
        if let Node::File(file) = index.node(id) {
            return Ok((format!("/{}", index.path(id)), file));
        }
    }
    let why = match candidates.as_slice() {
        [only] => format!("there is no file `{only}` in it"),
        _ => format!("there is no `{name}` in any folder of its PATH"),
    };
    Err(Error::NoProgram { why })
}

/// Every path at which a program called `name` may stand, the best first. `hint` is what the image
/// claims to be: Wasm programs are also looked for beside, without a `./`.
pub fn program_paths(execution: &ExecutionConfig, hint: Kind, name: &str) -> Vec<String> {
    let folder = execution.working_dir.as_deref().unwrap_or("/").trim_end_matches('/');
    if name.starts_with('/') {
        return vec![name.to_owned()];
    }
    let beside = format!("{folder}/{name}");
    if name.contains('/') || name.ends_with(".wasm") {
        return vec![beside];
    }
    let path = env_value(execution, "PATH").unwrap_or(DEFAULT_PATH);
    let mut all: Vec<_> =
        path.split(':').filter(|dir| !dir.is_empty()).map(|dir| format!("{dir}/{name}")).collect();
    if hint == Kind::Wasm {
        all.insert(0, beside);
    }
    all
}
