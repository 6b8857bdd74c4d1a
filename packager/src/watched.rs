use std::path::Path;

use crate::{
    build_file::BuildFile,
    context::{Context, Modes},
    error::Error,
    limits::DOCKERFILE_BYTES_MAX,
    project::BUILD_FILE,
};

/// Which files of a folder a build depends on, for a program that builds again when one changes.
pub struct Watched {
    /// What `.dockerignore` leaves out. `None` where a command reads the sources, which an image
    /// need not hold.
    context: Option<Context>,
    /// What the build command makes.
    product: Option<String>,
}

/// Folders of tools: what they hold is made of the sources, or kept beside them.
const TOOL_FOLDERS: [&str; 5] = ["target", "node_modules", "__pycache__", "venv", "zig-out"];

impl Watched {
    /// The files in `folder` that a build with this build file depends on.
    ///
    /// # Errors
    /// Says what cannot be read. A build file that is wrong is no error: it is about to be mended.
    pub fn of(folder: &Path, file: Option<&Path>) -> Result<Self, Error> {
        let file = file.map_or_else(|| folder.join(BUILD_FILE), Path::to_owned);
        let is_toml = file.extension().is_some_and(|extension| extension == "toml");
        let text = disk::read(&file, DOCKERFILE_BYTES_MAX).ok().filter(|_| is_toml);
        let parsed = text.and_then(|bytes| BuildFile::parse(&String::from_utf8_lossy(&bytes)).ok());
        if let Some(product) = parsed.as_ref().and_then(BuildFile::product) {
            return Ok(Self { context: None, product: Some(product) });
        }
        let context = Context::for_build_file(folder, &file, Modes::Masked)?;
        Ok(Self { context: Some(context), product: None })
    }

    /// Whether a change at `path`, relative to the folder, changes nothing in the image.
    pub fn ignores(&self, path: &str) -> bool {
        let tools = path.split('/').any(|part| {
            // Hidden files are those of editors and of version control.
            TOOL_FOLDERS.contains(&part) || part.starts_with('.') || part.ends_with('~')
        });
        tools
            // Compilers write beside it first.
            || self.product.as_deref().is_some_and(|product| {
                !product.is_empty() && path.starts_with(product)
            })
            || self.context.as_ref().is_some_and(|context| context.is_ignored(path))
    }
}
