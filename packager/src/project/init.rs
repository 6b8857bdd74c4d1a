use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    BUILD_FILE,
    language::{Language, ProgramKind},
    recognise::{Project, folder_name, usual_entry},
    template,
};
use crate::error::{Error, InitProblem, io_error};

/// What to write a build file for.
#[derive(Debug)]
pub struct Init<'a> {
    /// Made when it is not there.
    pub folder: &'a Path,
    /// The name of the image. Without one: that in the sources, else the folder's.
    pub name: Option<String>,
    /// Without one: what the sources say, and HTTP for a new app.
    pub kind: Option<ProgramKind>,
    /// The language of a new app, where the folder has no sources.
    pub language: Option<Language>,
    /// Whether a build file that is there is written anew.
    pub force: bool,
}

/// A folder that can be built now.
#[derive(Debug)]
pub struct Initialised {
    pub project: Project,
    /// Relative to the folder, in the order they were written.
    pub written: Vec<String>,
    /// Files that were there and are left as they are.
    pub kept: Vec<String>,
}

/// Writes a build file for the sources in a folder, with what their build needs beside them; in a
/// folder without sources also those of a small app. Sources that are there are never changed.
///
/// # Errors
/// [`Error::Init`] when there is nothing to write for, or a build file already; nothing is written
/// then.
pub fn init(init: &Init<'_>) -> Result<Initialised, Error> {
    let refused = |problem| Error::Init { folder: init.folder.to_owned(), problem };
    let build_file = init.folder.join(BUILD_FILE);
    if build_file.symlink_metadata().is_ok() && !init.force {
        return Err(refused(InitProblem::HasBuildFile));
    }
    let mut project = match (Project::recognise(init.folder), init.language) {
        (Some(found), Some(language)) if found.language != language => {
            let Project { language: found, marker, .. } = found;
            let (found, asked) = (found.name(), language.name());
            return Err(refused(InitProblem::OtherLanguage { found, marker, asked }));
        }
        (Some(Project { unclear: Some(problem), .. }), _) => return Err(refused(problem)),
        (Some(found), _) => found,
        (None, Some(language)) => new_project(init, language),
        (None, None) if init.folder.join("Dockerfile").is_file() => {
            return Err(refused(InitProblem::HasDockerfile));
        }
        (None, None) => return Err(refused(InitProblem::NoSources)),
    };
    if let Some(name) = &init.name {
        project.name.clone_from(name);
    }
    if let Some(kind) = init.kind {
        project.kind = kind;
    }
    let mut files = match project.is_begun {
        true => vec![],
        false => template::sources(&project),
    };
    files.extend(template::support(&project));
    let (mut written, mut kept) = (vec![], vec![]);
    for (path, text) in files {
        match write_new(&init.folder.join(&path), &text)? {
            true => written.push(path),
            false => kept.push(path),
        }
    }
    if init.force {
        fs::remove_file(&build_file).or_else(absent).map_err(io_error("replace", &build_file))?;
    }
    if !write_new(&build_file, &template::build_file(&project))? {
        return Err(refused(InitProblem::HasBuildFile));
    }
    written.push(BUILD_FILE.to_owned());
    Ok(Initialised { project, written, kept })
}

fn new_project(init: &Init<'_>, language: Language) -> Project {
    let name = init.name.clone().unwrap_or_else(|| folder_name(init.folder));
    let marker = match language {
        Language::Rust => "Cargo.toml",
        Language::Go => "go.mod",
        Language::C => "app.c",
        Language::JavaScript => "package.json",
        Language::Python => "app.py",
    };
    Project {
        folder: init.folder.to_owned(),
        language,
        kind: init.kind.unwrap_or(ProgramKind::Http),
        marker: marker.to_owned(),
        entry: usual_entry(language, &name).to_owned(),
        name,
        is_begun: false,
        unclear: None,
        is_member: false,
    }
}

/// Whether `path` is new: what is there stays.
fn write_new(path: &PathBuf, text: &str) -> Result<bool, Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io_error("make", folder))?;
    }
    let mut file = match fs::File::create_new(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(io_error("write", path)(error)),
    };
    io::Write::write_all(&mut file, text.as_bytes()).map_err(io_error("write", path))?;
    Ok(true)
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
