//! The vulnerability data of a registry.

use std::{
    fs::File,
    io::{BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, ensure};
use clap::Subcommand;
use registry::{
    Admin, Advisory, Client, ClientOptions, Imported, OsvCounts, VulnerabilityImport, read_osv,
};

use crate::{
    authorities,
    failure::Advice,
    output::{Output, ago, notice, now},
    serve::block_on,
};

/// Vulnerabilities that are sent at once: some hundred kilobytes.
const BATCH: usize = 500;
/// Files of a folder, which has one for each vulnerability.
const FILES_MAX: usize = 1_000_000;
/// Folders inside each other.
const DEPTH_MAX: usize = 8;
/// The archive of all ecosystems of osv.dev has 1.2 GB.
const DOWNLOAD_BYTES_MAX: u64 = 8 << 30;

#[derive(Debug, Subcommand)]
pub enum VulnDb {
    /// Take vulnerabilities from files, folders or URLs, in the place of those of the same
    /// ecosystems
    #[command(
        after_help = "A file is a record of OSV as JSON, or a zip of them; https://osv.dev has one for each ecosystem. All images are
compared with the data at once, and the URLs are kept for `update`.

Examples:
  margay registry vulndb import https://osv-vulnerabilities.storage.googleapis.com/Debian/all.zip
  margay registry vulndb import npm.zip records/"
    )]
    Import {
        /// A file, a folder or a URL
        #[arg(required = true, value_name = "SOURCE")]
        sources: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Import again from the URLs that were imported
    Update {
        #[command(flatten)]
        output: Output,
    },
    /// List the data and its age
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
}

/// Sends vulnerabilities in parts.
struct Sender<'a> {
    admin: &'a Admin,
    import: &'a VulnerabilityImport,
    waiting: Vec<Advisory>,
    counts: OsvCounts,
}

impl VulnDb {
    pub fn run(self, admin: &Admin, ca: Option<&Path>) -> anyhow::Result<()> {
        match self {
            Self::Import { sources, output } => import(admin, &sources, ca, output),
            Self::Update { output } => {
                let urls = block_on(admin.vulnerability_data())?.urls;
                ensure!(
                    !urls.is_empty(),
                    Advice::new("no vulnerability data was imported from a URL")
                        .hint("import it once: margay registry vulndb import URL")
                );
                import(admin, &urls, ca, output)
            }
            Self::Ls { output } => {
                let data = block_on(admin.vulnerability_data())?;
                if data.ecosystems.is_empty() {
                    notice(format_args!(
                        "There is no vulnerability data: margay registry vulndb import URL"
                    ));
                }
                let headings = ["ECOSYSTEM", "VULNERABILITIES", "IMPORTED", "NEWEST", "STATE"];
                output.records(&data.ecosystems, &headings, |one| {
                    [
                        one.ecosystem.clone(),
                        one.advisories.to_string(),
                        ago(one.imported, now()),
                        ago(one.modified, now()),
                        one.stale
                            .as_ref()
                            .map_or("current".to_owned(), |why| format!("old: {why}")),
                    ]
                })
            }
        }
    }
}

fn import(
    admin: &Admin,
    sources: &[String],
    ca: Option<&Path>,
    output: Output,
) -> anyhow::Result<()> {
    // Everything that can be missing is looked for before the import begins.
    let mut files = Vec::new();
    for source in sources.iter().filter(|source| !is_url(source)) {
        add_files(Path::new(source), 0, &mut files)?;
    }
    let urls: Vec<_> = sources.iter().filter(|source| is_url(source)).cloned().collect();
    let mut downloaded = Vec::new();
    for url in &urls {
        downloaded.push((url.clone(), download(url, ca)?));
    }
    let import = block_on(admin.begin_import())?;
    let mut sender =
        Sender { admin, import: &import, waiting: Vec::new(), counts: OsvCounts::default() };
    if let Err(error) = sender.send_all(downloaded, &files) {
        // The error is what matters; an import that is left ends by itself.
        block_on(admin.abort_import(import)).ok();
        return Err(error);
    }
    let counts = sender.counts;
    let imported = block_on(admin.commit_import(import, &urls))?;
    if let Some(fault) = &counts.fault {
        notice(format_args!("Left out: {} malformed, the first {fault}", counts.malformed));
    }
    output.record(&imported, |imported| told(imported, &counts))
}

fn told(imported: &Imported, counts: &OsvCounts) -> String {
    let mut lines = vec![format!(
        "Imported {} vulnerabilities, and left out {} that are withdrawn or of something else.",
        counts.advisories, counts.skipped
    )];
    lines.extend(imported.data.ecosystems.iter().map(|one| {
        let stale = one.stale.as_ref().map_or_else(String::new, |why| format!(", old: {why}"));
        format!("{}: {}{stale}", one.ecosystem, one.advisories)
    }));
    lines.push(format!("Images with new findings: {}", imported.images));
    lines.join("\n")
}

fn is_url(source: &str) -> bool {
    source.starts_with("https://") || source.starts_with("http://")
}

/// A file, or those of a folder.
fn add_files(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let shown = path.display();
    let about = path
        .metadata()
        .map_err(|error| anyhow!(error).context(format!("cannot read `{shown}`")))?;
    if !about.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    ensure!(depth < DEPTH_MAX, Advice::new(format!("`{shown}` is nested too deep")));
    let mut entries = Vec::new();
    for entry in path.read_dir().with_context(|| format!("cannot read `{shown}`"))? {
        let entry = entry.with_context(|| format!("cannot read `{shown}`"))?.path();
        let is_record = entry.extension().is_some_and(|end| end == "json" || end == "zip");
        if is_record || entry.is_dir() {
            entries.push(entry);
        }
    }
    entries.sort();
    for entry in entries {
        add_files(&entry, depth + 1, files)?;
        ensure!(
            files.len() <= FILES_MAX,
            Advice::new(format!("`{shown}` has more than {FILES_MAX} files"))
                .hint("import them as a zip")
        );
    }
    Ok(())
}

fn download(url: &str, ca: Option<&Path>) -> anyhow::Result<File> {
    let authorities = ca.map(authorities::read).transpose()?.unwrap_or_default();
    let client = Client::new(ClientOptions { authorities, ..ClientOptions::default() });
    let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
    notice(format_args!("Downloading {url}"));
    block_on(client.download(url, &mut file, DOWNLOAD_BYTES_MAX))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

impl Sender<'_> {
    fn send_all(
        &mut self,
        downloaded: Vec<(String, File)>,
        files: &[PathBuf],
    ) -> anyhow::Result<()> {
        for (url, file) in downloaded {
            self.read(file, &url)?;
        }
        for path in files {
            let shown = path.display().to_string();
            let file = File::open(path).with_context(|| format!("cannot read `{shown}`"))?;
            self.read(file, &shown)?;
        }
        self.send()?;
        ensure!(
            self.counts.advisories > 0,
            Advice::new(match &self.counts.fault {
                Some(fault) => format!("no vulnerability of a package was found: {fault}"),
                None => "no vulnerability of a package was found".to_owned(),
            })
            .hint("a source is a record of OSV as JSON, a zip of them, a folder, or a URL of one")
        );
        Ok(())
    }

    fn read(&mut self, file: File, name: &str) -> anyhow::Result<()> {
        let (mut failed, mut counts) = (None, std::mem::take(&mut self.counts));
        let read = read_osv(BufReader::new(file), &mut counts, &mut |advisory| {
            self.waiting.push(advisory);
            if self.waiting.len() < BATCH {
                return Ok(());
            }
            self.send().map_err(|error| {
                failed = Some(error);
                String::new()
            })
        });
        self.counts = counts;
        match (failed, read) {
            (Some(error), _) => Err(error),
            (None, Err(why)) => Err(Advice::new(format!("cannot import `{name}`: {why}"))
                .hint("a source is a record of OSV as JSON, a zip of them, a folder, or a URL")
                .into()),
            (None, Ok(())) => Ok(()),
        }
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let advisories = std::mem::take(&mut self.waiting);
        block_on(self.admin.stage_vulnerabilities(self.import, advisories))
    }
}
