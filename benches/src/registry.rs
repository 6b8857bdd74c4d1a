//! The registry beside zot and CNCF distribution: what a request costs the processor of the
//! server, which is the time that work of other programs on the machine changes least.
//!
//! `--rows=pull,push,…` measures some rows alone, `--tags=N` says how many tags the repository has
//! (peers get at most [`PEER_TAGS_MAX`]), `--small` moves a tenth of the bytes.

mod blobs; // bytes in and out
mod client; // a client that costs little, the same for all
mod memory; // what a server holds, and how soon it is there
mod peers; // each registry with a folder of its own
mod records; // manifests and tags
mod scans; // images, and the data that they are compared with
mod tails; // the slowest requests while the registry reads and deletes

use anyhow::{Result, bail};

use crate::{measure, platform::Margay};
use {client::Random, peers::Peer};

/// More takes zot hours: each manifest writes the list of all anew.
const PEER_TAGS_MAX: usize = 400;
const TAGS: usize = 100_000;

type Row = fn(&mut Stand<'_>) -> Result<()>;

const ROWS: [(&str, Row); 11] = [
    ("pull", blobs::pull),
    ("push", blobs::push),
    ("transfers", memory::transfers),
    ("tails", tails::run),
    ("head", records::head_blob),
    ("get-manifest", records::get_manifest),
    ("put-manifest", records::put_manifest),
    ("delete-manifest", records::delete_manifest),
    ("resident", memory::resident),
    ("start", memory::start),
    ("scan", scans::run),
];

/// What is measured, and with how much.
pub struct Options {
    rows: Vec<String>,
    tags: usize,
    small: bool,
}

/// The machine's registries.
struct Stand<'a> {
    margay: &'a Margay,
    options: Options,
    /// Those that have their tags already, which takes minutes.
    filled: Vec<records::Filled>,
}

impl Options {
    /// From the arguments that begin with `--`.
    pub fn parse<'a>(arguments: impl IntoIterator<Item = &'a String>) -> Result<Self> {
        let mut options = Self { rows: Vec::new(), tags: TAGS, small: false };
        for argument in arguments {
            match argument.split_once('=').unwrap_or((argument, "")) {
                ("--rows", rows) => options.rows.extend(rows.split(',').map(str::to_owned)),
                ("--tags", tags) => options.tags = tags.parse()?,
                ("--small", "") => options.small = true,
                _ => bail!("`{argument}` is no option: there are --rows=…, --tags=N and --small"),
            }
        }
        if let Some(row) = options.rows.iter().find(|row| ROWS.iter().all(|(name, _)| name != row))
        {
            bail!("`{row}` is no row: there are {}", ROWS.map(|(name, _)| name).join(", "));
        }
        Ok(options)
    }
}

impl Stand<'_> {
    /// Every registry that is installed, fresh.
    fn peers(&self) -> Result<Vec<Peer>> {
        peers::all(self.margay)
    }

    /// This one, fresh.
    fn margay(&self) -> Result<Peer> {
        peers::margay(self.margay)
    }

    fn random(&self) -> Random {
        Random::new(if self.options.small { 10 } else { 100 })
    }
}

/// The rows that were asked for; all without a word.
pub fn run(margay: &Margay) -> Result<()> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument.starts_with("--")).collect();
    let options = Options::parse(&arguments)?;
    let rows = ROWS
        .iter()
        .filter(|(name, _)| options.rows.is_empty() || options.rows.iter().any(|row| row == name));
    let rows: Vec<_> = rows.map(|(_, row)| row).collect();
    let mut stand = Stand { margay, options, filled: Vec::new() };
    peers::name_absent();
    rows.into_iter().try_for_each(|row| row(&mut stand))
}

/// One table: each registry with what it spent, and how many times that of margay it is.
fn table(title: &str, unit: &str, results: &[(String, measure::Samples)]) {
    let margay = results[0].1.median();
    let rows: Vec<_> = results
        .iter()
        .map(|(name, spent)| {
            [name.clone(), precise(spent, unit), format!("{:.2}", spent.median() / margay)]
        })
        .collect();
    measure::table([title, "processor time: median (min to max)", "/ margay"], &rows);
    println!();
}

fn precise(samples: &measure::Samples, unit: &str) -> String {
    let [median, min, max] = [0.5, 0.0, 1.0].map(|q| samples.quantile(q));
    format!("{median:.3} {unit} ({min:.3} to {max:.3})")
}
