use serde::Serialize;
use serde_json::{Map, Value};
use spec::{Digest, Reference};

use crate::{
    home::Home,
    images,
    listing::{Fields, Listing, record},
    output::{docker_size, docker_time, line, size},
    views::{
        image::{UNKNOWN, created, created_since},
        task::cut,
    },
};

/// Show how an image was made, the newest layer first
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields: .ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment")]
pub struct Args {
    /// Print digests only
    #[arg(short, long)]
    quiet: bool,
    /// Show digests and instructions in full length
    #[arg(long)]
    no_trunc: bool,
    /// Print sizes and times for humans; `false` prints bytes and dates
    #[arg(
        short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set
    )]
    human: bool,
    #[command(flatten)]
    listing: Listing,
    /// Name or digest of the image
    image: Reference,
}

const FIELDS: Fields = &[
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("CreatedSince", "CREATED"),
    ("ID", "IMAGE"),
    ("Size", "SIZE"),
];

/// One instruction, with the layer that it made if it made one.
#[derive(Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    created_by: String,
    size: u64,
    comment: String,
}

/// Instructions of one image: more than any Dockerfile has.
const ROWS_MAX: usize = 20_000;
/// Configs have some kilobytes.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let form = self.listing.form(FIELDS)?;
        let rows = self.rows(home)?;
        if self.quiet && form.is_own() && !form.is_json() {
            for row in &rows {
                line(format_args!("{}", self.id(row)));
            }
            return Ok(());
        }
        form.print(
            &rows,
            &["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"],
            |row| {
                let bytes = if self.human { size(row.size) } else { row.size.to_string() };
                [self.id(row), self.when(row), self.by(row), bytes, row.comment.clone()]
            },
            |row| self.docker(row),
        )
    }

    fn docker(&self, row: &Row) -> Map<String, Value> {
        let at = created(row.created.as_deref());
        let bytes = if self.human { docker_size(row.size) } else { row.size.to_string() };
        record([
            ("Comment", row.comment.clone().into()),
            ("CreatedAt", at.map_or_else(|| UNKNOWN.to_owned(), docker_time).into()),
            ("CreatedBy", self.by(row).into()),
            ("CreatedSince", self.when(row).into()),
            ("ID", self.id(row).into()),
            ("Size", bytes.into()),
        ])
    }

    fn id(&self, row: &Row) -> String {
        match row.image {
            Some(digest) if self.no_trunc => digest.to_string(),
            Some(digest) => digest.short(),
            None => "<missing>".to_owned(),
        }
    }

    fn when(&self, row: &Row) -> String {
        match self.human {
            true => created_since(row.created.as_deref()),
            false => row.created.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
        }
    }

    fn by(&self, row: &Row) -> String {
        match self.no_trunc {
            true => row.created_by.clone(),
            false => cut(&row.created_by, 45),
        }
    }

    /// The newest first. A layer that the history does not tell of has a row of its own.
    fn rows(&self, home: &Home) -> anyhow::Result<Vec<Row>> {
        let layout = images::layout(home)?;
        let (_, descriptor) = images::resolve(&layout, &self.image)?;
        let manifest = layout.choose(&descriptor, &packager::host_platforms())?;
        let plan = layout.plan(&manifest)?;
        let manifests = layout.manifests(&manifest)?;
        let config = manifests.first().and_then(|(_, manifest)| manifest.config.clone());
        let config: Value = match config {
            Some(config) => {
                let bytes = layout.read_blob(&config, CONFIG_BYTES_MAX)?;
                serde_json::from_slice(&bytes).unwrap_or_default()
            }
            None => Value::Null,
        };
        let history = config["history"].as_array().cloned().unwrap_or_default();
        let mut layers = plan.layers.iter().map(|layer| &layer.descriptor);
        let mut rows = Vec::new();
        for step in history.iter().take(ROWS_MAX) {
            let text = |name: &str| step[name].as_str().map(str::to_owned);
            let makes_layer = !step["empty_layer"].as_bool().unwrap_or_default();
            let layer = if makes_layer { layers.next() } else { None };
            rows.push(Row {
                image: None,
                layer: layer.map(|layer| layer.digest),
                created: text("created"),
                created_by: text("created_by").unwrap_or_default(),
                size: layer.map_or(0, |layer| layer.size),
                comment: text("comment").unwrap_or_default(),
            });
        }
        rows.extend(layers.map(|layer| Row {
            image: None,
            layer: Some(layer.digest),
            created: plan.config.created.clone(),
            created_by: format!("layer {}", layer.digest.short()),
            size: layer.size,
            comment: String::new(),
        }));
        rows.reverse();
        if let Some(newest) = rows.first_mut() {
            newest.image = Some(descriptor.digest);
        }
        Ok(rows)
    }
}
