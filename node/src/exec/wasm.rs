//! What a Wasm container runs beside its own program: another one of its image, or one of the
//! caller's. Either is prepared as any other, and sealed, before its worker hears of it.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use engine::{
    StartFailure,
    exec::{CodeRange, Program},
};
use runtime::World;
use spec::Digest;

use crate::{
    error::{Error, Result, chain},
    home::Home,
    images::{another_program, blobs_of, named, plan, program_file},
    tasks::TaskFolder,
};

/// Where the program's machine code lies for the worker of `task`.
pub(super) fn place(
    home: &Home,
    task: &TaskFolder,
    program: &Program,
    file: Option<&Path>,
    preparing: &mut dyn FnMut(),
) -> Result<CodeRange> {
    let record = task.record();
    let refused = |failure: StartFailure, why: String, hint: Option<String>| Error::Start {
        task: record.name.clone(),
        why,
        hint,
        exit_code: failure.exit_code(),
    };
    if program.user.is_some() {
        let why = "-u means nothing for a Wasm program: it has no users".to_owned();
        return Err(refused(StartFailure::Host, why, Some("leave -u out".to_owned())));
    }
    let owner = record.origin.owner().to_owned();
    let name = program.args.first().map_or("", String::as_str);
    let (prepared, what) = match file {
        Some(path) => {
            let wasm = File::open(path).map_err(Error::file("open", path))?;
            let (file, what) = (path, path.display().to_string());
            let prepared = program_file(home, &owner, wasm, file, preparing);
            (prepared.map_err(|error| named(error, &what))?, what)
        }
        None => {
            let (digest, layout) = (&record.digest, layout_of(home, &owner, &record.digest)?);
            let blobs = blobs_of(&layout);
            let plan = plan(&blobs, &record.image, digest)?;
            let prepared =
                another_program(home, &owner, &blobs, plan, &record.command, name, preparing);
            (prepared.map_err(|error| named(error, &record.image))?, name.to_owned())
        }
    };
    if prepared.facts.world != World::Command {
        let why = format!("`{what}` answers HTTP requests, and `exec` runs programs to their end");
        let hint = "run a command component or a core module of WASI".to_owned();
        return Err(refused(StartFailure::NotExecutable, why, Some(hint)));
    }
    let failed = |error: runtime::Error| refused(StartFailure::Host, chain(&error), error.hint());
    let key = runtime::Key::open(&home.key()).map_err(failed)?;
    prepared.place_for(task.path(), &key).map_err(failed)
}

/// The layout of this machine that has `image`.
fn layout_of(home: &Home, owner: &str, image: &Digest) -> Result<PathBuf> {
    let layouts = [home.images(), home.files(), home.pulled(owner)];
    let has = |layout: &PathBuf| blobs_of(layout).open_file(image).is_ok();
    layouts.into_iter().find(has).ok_or_else(|| Error::NoSuchImage(image.to_string()))
}
