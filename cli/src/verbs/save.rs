use std::{
    fs::{self, File},
    io::{self, BufWriter, IntoInnerError, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use disk::{NewFile, Survives};
use spec::Reference;

use crate::{
    failure::{Advice, USAGE_ERROR},
    home::Home,
    images,
    unfinished::Unfinished,
};

/// Write images to a file: a tar of an OCI layout, which `docker load` takes as well
#[derive(Debug, clap::Args)]
#[command(after_help = "The same images give the same bytes.

Examples:
  margay save -o cats.tar cats
  margay save cats dogs:2 | gzip > pets.tar.gz")]
pub struct Args {
    /// The file to write [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Reference>,
}

impl Args {
    /// Writes the whole file, or none.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let layout = images::layout(home)?;
        let images: Vec<_> = self
            .images
            .iter()
            .map(|image| images::resolve(&layout, image))
            .collect::<anyhow::Result<_>>()?;
        let export = |out: &mut dyn Write, to: &Path| -> anyhow::Result<()> {
            packager::export(&layout, &images, out).map_err(|error| match error {
                // The packager does not know what it writes to.
                packager::Error::Io { doing: "write", source, .. } => {
                    packager::Error::Io { doing: "write", path: to.to_owned(), source }.into()
                }
                other => other.into(),
            })
        };
        let Some(path) = self.output else {
            let stdout = io::stdout();
            ensure!(
                !stdout.is_terminal(),
                Advice::new("an image is no text for a terminal")
                    .hint("write a file: margay save -o FILE IMAGE")
                    .code(USAGE_ERROR)
            );
            return export(&mut BufWriter::new(stdout.lock()), Path::new("stdout"));
        };
        write_whole(&path, |file| export(file, &path))
    }
}

/// Lets `write` fill the file at `path`. What was there before stays until the new one is whole; a
/// pipe or a device is written as it is.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let named = || format!("cannot write `{}`", path.display());
    // The file behind a link, so that the link stays one.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = fs::metadata(&target).ok();
    if before.as_ref().is_some_and(|before| !before.is_file()) {
        let mut file =
            BufWriter::new(File::options().write(true).open(&target).with_context(named)?);
        write(&mut file)?;
        return file.flush().with_context(named);
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let file = NewFile::create_public_in(folder.unwrap_or(Path::new("."))).with_context(named)?;
    let _removed = Unfinished::new(file.path())?;
    if let Some(before) = before {
        file.file().set_permissions(before.permissions()).with_context(named)?;
    }
    let mut file = BufWriter::new(file);
    write(&mut file)?;
    let file = file.into_inner().map_err(IntoInnerError::into_error).with_context(named)?;
    file.commit(&target, Survives::Crash).with_context(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_that_fails_leaves_the_file_of_before() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("cats.tar"), folder.path().join("link.tar"));
        std::os::unix::fs::symlink("cats.tar", &link).unwrap();
        let fill = |bytes: &'static [u8]| move |file: &mut dyn Write| Ok(file.write_all(bytes)?);
        write_whole(&path, fill(b"first")).unwrap();
        let torn = write_whole(&path, |file| {
            file.write_all(b"half")?;
            anyhow::bail!("the disk is full")
        });
        assert!(torn.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        write_whole(&link, fill(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
        write_whole(Path::new("/dev/null"), fill(b"gone")).unwrap();
    }
}
