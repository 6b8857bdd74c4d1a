//! What the audit log costs: a record by itself, and its part of a request that is recorded.

use std::{path::Path, process::Command, time::Duration};

use ::audit::{AuditLog, Event};
use anyhow::{Context, Result, ensure};
use registry::{Action, Tokens};

use crate::{
    cold,
    load::{self, Server},
    machine,
    measure::{self, Samples},
    platform::Margay,
};

const HEAD: [&str; 3] = ["audit log", "median (min to max)", "part of it that is a record"];
const ROUNDS: usize = 20;
const RECORDS: u32 = 10_000;
const TIME: Duration = Duration::from_secs(3);
const TOKEN_TIME: Duration = Duration::from_secs(3600);

/// There is no platform without the log to measure beside: what a record by itself takes of a
/// processor is compared with what the platform takes for a request that is recorded. Under load it
/// is less, for those of one moment are written together.
pub fn run(margay: &Margay) -> Result<()> {
    let record = record()?;
    let mut rows =
        vec![["a record by itself".to_owned(), record.show("µs of a processor"), String::new()]];
    let Some(wrk) = machine::peer("wrk", "apt-get install wrk") else {
        measure::table(HEAD, &rows);
        return Ok(());
    };
    let (up, port, _) = cold::up(margay, &[])?;
    margay.build("adopt")?;
    cold::serve(margay, port)?;
    let tokens = Tokens::load(&margay.home().join("registry/token.key"))?;
    let access = [("me/adopt".parse()?, vec![Action::Pull])];
    let bearer = format!("Authorization: Bearer {}", tokens.mint("bench", &access, TOKEN_TIME));
    let url = format!("http://127.0.0.1:{port}/v2/me/adopt/manifests/v1");
    let row = |title: &str, url: &str, bearer: &str| row(title, &record, &up, &wrk, url, bearer);
    rows.push(row("manifests of the registry", &url, &bearer)?);
    let (address, token) = control_plane(margay)?;
    let (url, bearer) =
        (format!("https://{address}/v1/clusters"), format!("Authorization: Bearer {token}"));
    rows.push(row("lists of the control plane", &url, &bearer)?);
    measure::table(HEAD, &rows);
    Ok(())
}

/// What a request takes of a processor, in all processes of the platform.
fn row(
    title: &str,
    record: &Samples,
    up: &Server,
    wrk: &Path,
    url: &str,
    bearer: &str,
) -> Result<[String; 3]> {
    let (mut rates, mut times) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS / 4 {
        let before = up.cpu_time();
        let rate = load::wrk_with(wrk, url, 16, TIME, &["-H", bearer])?.rate;
        let spent = up.cpu_time().saturating_sub(before);
        times.push(spent.as_secs_f64() * 1e6 / (rate * TIME.as_secs_f64()));
        rates.push(rate);
    }
    let title = format!("{title}, at {:.0} a second", rates.median());
    let part = format!("{:.0} % at most", 100.0 * record.median() / times.median());
    Ok([title, times.show("µs of a processor"), part])
}

/// Where the control plane is, and an access token of its operator.
fn control_plane(margay: &Margay) -> Result<(String, String)> {
    let file = std::fs::read(margay.home().join("server/credential.json"))?;
    let operator: serde_json::Value = serde_json::from_slice(&file)?;
    let address = operator["address"].as_str().context("an address")?.to_owned();
    let wanted = serde_json::json!({
        "tenant": operator["tenant"], "credential": operator["name"], "secret": operator["secret"],
    });
    // Its certificate is of a CA of its own, on the loopback of this machine.
    let url = format!("https://{address}/v1/access-tokens");
    let said = Command::new("curl").args(["-sk", "-d", &wanted.to_string(), &url]).output()?;
    ensure!(said.status.success(), "curl failed on {url}");
    let said: serde_json::Value = serde_json::from_slice(&said.stdout)?;
    Ok((address, said["token"].as_str().context("a token")?.to_owned()))
}

/// Microseconds for one, in a log of its own.
fn record() -> Result<Samples> {
    let folder = tempfile::tempdir()?;
    let log = AuditLog::open(folder.path())?;
    let mut samples = Samples::default();
    for _ in 0..ROUNDS {
        let before = spent_here()?;
        for _ in 0..RECORDS {
            log.record(Event {
                principal: "user/me".to_owned(),
                address: "127.0.0.1".to_owned(),
                action: "GET".to_owned(),
                object: "/v2/me/adopt/manifests/v1".to_owned(),
                status: 200,
                code: String::new(),
            });
        }
        let spent = spent_here()?.saturating_sub(before);
        samples.push(spent.as_secs_f64() * 1e6 / f64::from(RECORDS));
    }
    Ok(samples)
}

/// How long this thread has had a processor.
fn spent_here() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let spent = stat.split_whitespace().next().context("no time on a processor")?;
    Ok(Duration::from_nanos(spent.parse()?))
}
