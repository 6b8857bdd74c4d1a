use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use node::{InvokeOutcome, InvokeRequest, PrivateNetwork};
use serde::Serialize;
use spec::{Capability, Usage, parse_duration};

use crate::{
    failure::{Advice, USAGE_ERROR},
    flags::Environment,
    home::Home,
    images::{self, Fetch},
    output::{self, Format, Output, Paint, duration, json, notice, size},
    transfer::Remote,
};

/// Send one request to an image: a worker is made for it, answers and ends; says what it cost
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The answer's body goes to stdout, what it cost to stderr. Exits with 1 for a status of 400 and above.
With --output json the body is in `body`, or in `body_base64` when it is not UTF-8.

Example:
  margay invoke cats --path /"
)]
pub struct Args {
    /// Path and query
    #[arg(long, default_value = "/", value_parser = path)]
    path: String,
    /// The request's method
    #[arg(short = 'X', long, default_value = "GET")]
    method: Method,
    /// Add a header
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Send this text, or with @FILE what is in a file
    #[arg(short, long, value_name = "TEXT|@FILE")]
    data: Option<String>,
    #[command(flatten)]
    environment: Environment,
    /// Grant a capability
    #[arg(long, value_name = "CAPABILITY")]
    allow: Vec<Capability>,
    /// Open an internal network to grants with `;private`: the second of the two keys
    #[arg(long, value_name = "ADDRESS/BITS")]
    private_network: Vec<PrivateNetwork>,
    /// How long the whole answer may take
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
    /// Which image
    image: String,
}

/// Longer bodies are for a service.
const BODY_BYTES_MAX: u64 = 16 << 20;

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("`{text}` is not NAME: VALUE");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    Ok((name.trim().parse().map_err(|_| wrong())?, value.trim().parse().map_err(|_| wrong())?))
}

/// What may stand in a request line.
fn path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("a path begins with `/`: --path /{text}"));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(c) => Err(format!(
            "`{c}` cannot stand in a path: write each of its bytes as % and two hex digits"
        )),
        None => match text.parse::<http::uri::PathAndQuery>() {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(error.to_string()),
        },
    }
}

#[derive(Serialize)]
struct Record<'a> {
    status: u16,
    headers: Vec<(&'a str, String)>,
    /// When it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// When it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    started_in_us: u128,
    answered_in_us: u128,
    usage: Usage,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        let found = images::find(home, &self.image, Fetch::Missing, &self.remote)?;
        let request = InvokeRequest {
            image: found.image,
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.header.iter().cloned().collect::<HeaderMap>(),
            body: self.body()?.into(),
            env: self.environment.variables()?,
            secrets: self.environment.secrets()?,
            allow: self.allow.clone(),
            private_networks: self.private_network.clone(),
            time_max: self.timeout,
        };
        let preparing = || {
            notice(format_args!("Preparing the image: checking its layers, making machine code"))
        };
        let outcome = node::invoke(home.node(), request, preparing)?;
        match self.output.output {
            Format::Table => print(&outcome),
            Format::Json => json(&record(&outcome))?,
        }
        Ok(ExitCode::from(u8::from(outcome.status.as_u16() >= 400)))
    }

    fn body(&self) -> anyhow::Result<Vec<u8>> {
        let Some(data) = &self.data else { return Ok(Vec::new()) };
        let Some(path) = data.strip_prefix('@') else { return Ok(data.clone().into_bytes()) };
        let size = std::fs::metadata(path).with_context(|| format!("cannot read `{path}`"))?.len();
        if size > BODY_BYTES_MAX {
            let message = format!("`{path}` has {size} bytes, and a body at most {BODY_BYTES_MAX}");
            bail!(Advice::new(message).code(USAGE_ERROR));
        }
        std::fs::read(path).with_context(|| format!("cannot read `{path}`"))
    }
}

fn print(outcome: &InvokeOutcome) {
    // The body as it came: `margay invoke cats --path /box.jpg > box.jpg`.
    output::raw(&outcome.body);
    if std::io::stdout().is_terminal() && outcome.body.last().is_some_and(|byte| *byte != b'\n') {
        output::raw(b"\n");
    }
    let InvokeOutcome { status, usage, .. } = outcome;
    let paint = if status.as_u16() < 400 { Paint::good } else { Paint::warn };
    let status = paint(Paint::on_stderr(), status.as_str());
    notice(format_args!(
        "{status} in {}, after a start in {}. Cost: {} of CPU, {} of memory at most, {} in, {} out.",
        duration(outcome.answered_in),
        duration(outcome.started_in),
        duration(Duration::from_nanos(usage.cpu_ns)),
        size(usage.memory_bytes_peak),
        size(usage.bytes_in),
        size(usage.bytes_out),
    ));
}

fn record(outcome: &InvokeOutcome) -> Record<'_> {
    let headers = outcome.headers.iter().map(|(name, value)| {
        (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let text = std::str::from_utf8(&outcome.body).ok();
    Record {
        status: outcome.status.as_u16(),
        headers: headers.collect(),
        body: text,
        body_base64: text.is_none().then(|| BASE64_STANDARD.encode(&outcome.body)),
        started_in_us: outcome.started_in.as_micros(),
        answered_in_us: outcome.answered_in.as_micros(),
        usage: outcome.usage,
    }
}
