use image::{Kind, Sniffed, WasmFacts, inspect_wasm, program_paths, sniff};
use spec::Platform;

use crate::{
    cache::{Cache, RACE_NS},
    error::Error,
    items::{Item, Origin, Source},
    layer::spool::Spool,
    limits::{EXECUTABLES_MAX, HEAD_BYTES, WASM_BYTES_MAX},
    stage::{Stage, StageEntry},
};

/// What an image runs.
pub(crate) enum Program {
    Found(StageProgram),
    /// Nothing in the image yet has the name that ENTRYPOINT or CMD gives.
    Later {
        name: String,
        needed_by: Option<&'static str>,
    },
    /// Neither is set.
    Unnamed,
}

/// The program of the image that a stage becomes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StageProgram {
    /// Relative and normal.
    pub(crate) path: String,
    pub(crate) platform: Platform,
    /// For Wasm that this build brought in.
    pub(crate) facts: Option<WasmFacts>,
}

/// The platform of a layered Wasm image.
pub(crate) fn wasm_platform() -> Platform {
    Platform { architecture: "wasm".to_owned(), os: "wasi".to_owned(), variant: None }
}

/// The platforms whose native images run on this machine, best first.
pub fn host_platforms() -> Vec<Platform> {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "x86" => ("386", None),
        "arm" => ("arm", Some("v7".to_owned())),
        "powerpc64" => ("ppc64le", None),
        other => (other, None),
    };
    vec![Platform { architecture: architecture.to_owned(), os: "linux".to_owned(), variant }]
}

/// Finds what `stage` runs, and checks that it can be run if it is there.
pub(crate) fn find(
    stage: &Stage,
    spool: &mut Spool<'_>,
    cache: &Cache,
    now_ns: i128,
) -> Result<Program, Error> {
    let config = &stage.config;
    let Some(name) = config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).next()
    else {
        return Ok(Program::Unnamed);
    };
    let hint = match &stage.base.platform {
        Some(platform) if platform.os.eq_ignore_ascii_case("linux") => Kind::Native,
        _ => Kind::Wasm,
    };
    for candidate in program_paths(config, hint, name) {
        let Ok(path) = stage.resolve(&candidate) else { continue };
        let source = match stage.at(&path) {
            Some(StageEntry::New(_, source)) => source.clone(),
            Some(StageEntry::Base(_, file)) => match &stage.base.platform {
                // It was checked when the image below was built.
                Some(platform)
                    if stage.base.args.first() == Some(name)
                        && stage.shell_form.instruction().is_none() =>
                {
                    return Ok(Program::Found(StageProgram {
                        path,
                        platform: platform.clone(),
                        facts: None,
                    }));
                }
                _ => stage.base.source(file),
            },
            Some(StageEntry::Folder(_) | StageEntry::Symlink(..)) | None => continue,
        };
        return examine(stage, path, &source, spool, cache, now_ns).map(Program::Found);
    }
    Ok(Program::Later { name: name.clone(), needed_by: stage.shell_form.instruction() })
}

/// What the executables of an image say that it is for, when it names no program.
pub(crate) fn platform_of_executables(
    stage: &Stage,
    spool: &mut Spool<'_>,
) -> Result<Option<Platform>, Error> {
    let items = stage.layers.iter().flat_map(|layer| layer.items.0.values());
    let executables = items.filter_map(|item| match item {
        Item::File { meta, source } if meta.mode & 0o111 != 0 => Some(source),
        Item::File { .. } | Item::Folder { .. } | Item::Symlink { .. } => None,
    });
    for source in executables.take(EXECUTABLES_MAX) {
        let head = spool.head(source, HEAD_BYTES)?;
        if sniff(&head) == Sniffed::Elf
            && let Some(architecture) = elf_architecture(&head)
        {
            return Ok(Some(linux(architecture)));
        }
    }
    Ok(None)
}

fn linux(architecture: &str) -> Platform {
    Platform { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: None }
}

fn examine(
    stage: &Stage,
    path: String,
    source: &Source,
    spool: &mut Spool<'_>,
    cache: &Cache,
    now_ns: i128,
) -> Result<StageProgram, Error> {
    let what = match source {
        Source::Context(file) => format!("`{}`", file.path),
        Source::Bytes(_) | Source::Part { .. } => format!("`/{path}`"),
    };
    let head = spool.head(source, HEAD_BYTES)?;
    match sniff(&head) {
        Sniffed::Elf => {
            let platform = elf_architecture(&head).map(linux);
            let why = || format!("{what} is a native program for a machine that no image names");
            let platform =
                platform.ok_or_else(|| Error::Program(image::Error::NoProgram { why: why() }))?;
            Ok(StageProgram { path, platform, facts: None })
        }
        Sniffed::Script => {
            let below = stage
                .base
                .platform
                .clone()
                .filter(|platform| platform.os.eq_ignore_ascii_case("linux"));
            let platform = below.or_else(|| host_platforms().into_iter().next());
            Ok(StageProgram {
                path,
                platform: platform.unwrap_or_else(|| linux("amd64")),
                facts: None,
            })
        }
        _ => {
            let facts = facts(&what, source, spool, cache, now_ns)?;
            Ok(StageProgram { path, platform: wasm_platform(), facts: Some(facts) })
        }
    }
}

/// What the Wasm program in `source` imports and exports, when it can be run.
pub(crate) fn facts(
    what: &str,
    source: &Source,
    spool: &mut Spool<'_>,
    cache: &Cache,
    now_ns: i128,
) -> Result<WasmFacts, Error> {
    let key = cache.key("facts", |hasher| hasher.update(source.identity().as_bytes()));
    if let Some(facts) = cache.facts(&key) {
        return Ok(facts);
    }
    if source.size() > WASM_BYTES_MAX {
        let why = format!(
            "{what} has {} bytes, and at most {WASM_BYTES_MAX} are compiled",
            source.size()
        );
        return Err(Error::Program(image::Error::Budget { why }));
    }
    let bytes = spool.head(source, WASM_BYTES_MAX)?;
    let facts = inspect_wasm(what, &bytes).map_err(Error::Program)?;
    facts.check_runnable(what).map_err(Error::Program)?;
    let settled = match source {
        Source::Context(file) | Source::Part { origin: Origin::Archive(file), .. } => {
            file.stat.ctime_ns + RACE_NS < now_ns
        }
        Source::Bytes(_) | Source::Part { .. } => true,
    };
    if settled {
        cache.put_facts(&key, &facts);
    }
    Ok(facts)
}

/// What Go, and so OCI, calls the machine of an ELF file.
pub(crate) fn elf_architecture(head: &[u8]) -> Option<&'static str> {
    let (class, order) = (*head.get(4)?, *head.get(5)?);
    let machine = [*head.get(18)?, *head.get(19)?];
    let machine =
        if order == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    match (machine, class, order) {
        (0x3e, 2, 1) => Some("amd64"),
        (0xb7, 2, 1) => Some("arm64"),
        (0x03, 1, 1) => Some("386"),
        (0x28, 1, 1) => Some("arm"),
        (0xf3, 2, 1) => Some("riscv64"),
        (0x15, 2, 1) => Some("ppc64le"),
        (0x16, 2, 2) => Some("s390x"),
        (0x102, 2, 1) => Some("loong64"),
        _ => None,
    }
}
