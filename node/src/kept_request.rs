//! The request of a local task, kept in its folder for the next start: `request.json`, for its
//! owner alone. Values of variables are in it, as Docker keeps them; values of secrets are not, and
//! are read again from where they came.

use std::{fs::File, io::Read, path::Path};

use serde::{Deserialize, Serialize};
use spec::SecretValue;

use crate::{
    error::{Error, Result},
    files,
    request::RunRequest,
    settings::Settings,
    tasks::TaskFolder,
};

/// Always 1; a newer one is refused by name.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    request: RunRequest,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Writes it into the folder of its task.
pub(crate) fn keep(folder: &TaskFolder, request: &RunRequest) -> Result<()> {
    let request = RunRequest { secrets: Default::default(), ..request.clone() };
    let kept = Kept { version: VERSION, request };
    files::write_json(&path(folder), &kept, folder.record().survives())
}

/// The request with which a task was made, under its present name and with its secrets.
///
/// # Errors
/// [`Error::NotKept`] for a task of another origin; when a secret cannot be read any more.
pub(crate) fn read(folder: &TaskFolder) -> Result<RunRequest> {
    let path = path(folder);
    let name = &folder.record().name;
    let not_kept = || Error::NotKept(name.clone());
    // The version first: a newer file may have fields that are not known here.
    let Versioned { version } = files::read_json(&path)?.ok_or_else(not_kept)?;
    spec::wire::check_version("the request", version)
        .map_err(|source| Error::Newer { path: path.clone(), source })?;
    let kept: Kept = files::read_json(&path)?.ok_or_else(not_kept)?;
    let mut request = RunRequest { name: Some(name.clone()), ..kept.request };
    for (secret, file) in &request.secret_files {
        let value = secret_value(file).map_err(Error::file("read the secret in", file))?;
        request.secrets.insert(secret.clone(), value);
    }
    Ok(request)
}

/// What a task was made with beyond its image, and whether its root is read-only; nothing for a
/// task of another origin.
pub fn kept_settings(folder: &TaskFolder) -> Option<(Settings, bool)> {
    let kept: Kept = files::read_json(&path(folder)).ok().flatten()?;
    Some((kept.request.settings, kept.request.read_only))
}

fn secret_value(file: &Path) -> std::io::Result<SecretValue> {
    let mut bytes = Vec::new();
    // No byte more than a secret can have.
    File::open(file)?.take(SecretValue::BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    SecretValue::new(bytes).map_err(std::io::Error::other)
}

fn path(folder: &TaskFolder) -> std::path::PathBuf {
    folder.path().join("request.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Home, request::LocalImage, tasks};
    use spec::Digest;

    fn request() -> RunRequest {
        RunRequest::of(LocalImage {
            name: "cats".to_owned(),
            digest: Digest::of(b"cats"),
            layout: "/images".into(),
        })
    }

    #[test]
    fn a_request_is_kept_without_secrets_and_read_with_their_present_values() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let owned = tasks::create(&home, tasks::folder_tests::record("t", "tom")).unwrap();
        let secret = folder.path().join("key");
        std::fs::write(&secret, "hunter2").unwrap();
        let name: spec::SecretName = "key".parse().unwrap();
        let mut asked = request();
        asked.secrets.insert(name.clone(), SecretValue::new(b"hunter2".to_vec()).unwrap());
        asked.secret_files.insert(name.clone(), secret.clone());
        asked.env.insert("A".to_owned(), "b".to_owned());
        keep(owned.folder(), &asked).unwrap();
        let text = std::fs::read_to_string(path(owned.folder())).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        std::fs::write(&secret, "hunter3").unwrap();
        let read_again = read(owned.folder()).unwrap();
        assert_eq!(read_again.secrets[&name].expose(), b"hunter3");
        assert_eq!((read_again.name.as_deref(), &read_again.env), (Some("tom"), &asked.env));
        std::fs::remove_file(&secret).unwrap();
        let error = read(owned.folder()).unwrap_err().to_string();
        assert!(error.contains("read the secret in") && error.contains("key"), "{error}");
    }

    #[test]
    fn an_older_request_is_read_and_a_newer_one_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let owned = tasks::create(&home, tasks::folder_tests::record("t", "tom")).unwrap();
        let error = read(owned.folder()).unwrap_err();
        assert!(matches!(error, Error::NotKept(_)), "{error}");
        // As the first version wrote it; fields that were added since have defaults.
        std::fs::write(path(owned.folder()), FIRST).unwrap();
        let want = RunRequest { name: Some("tom".to_owned()), ..request() };
        assert_eq!(read(owned.folder()).unwrap(), want);
        let newer = FIRST.replace("\"version\":1", "\"version\":2").replace("\"image\"", "\"new\"");
        std::fs::write(path(owned.folder()), newer).unwrap();
        let error = crate::error::chain(&read(owned.folder()).unwrap_err());
        assert!(error.contains("the request has version 2"), "{error}");
    }

    const FIRST: &str = include_str!("kept_request.golden.json");
}
