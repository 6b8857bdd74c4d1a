//! What the audit log costs: a record by itself, and its part of a request that is recorded.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use ::audit::{AuditLog, Event};
use anyhow::{Context, Result, ensure};
use registry::{Action, Tokens};

use crate::{
    cold, load, machine,
    measure::{self, Samples},
    platform::Margay,
};

const HEAD: [&str; 3] = ["audit log", "median (min to max)", "computed"];
const ROUNDS: usize = 20;
const RECORDS: u32 = 10_000;
const TIME: Duration = Duration::from_secs(3);
const TOKEN_TIME: Duration = Duration::from_secs(3600);

/// There is no platform without the log to measure beside: a request that is recorded is compared
/// with the same one less the time of its record, on the one processor that the servers have here.
pub fn run(margay: &Margay) -> Result<()> {
    let record = record()?;
    let mut rows = vec![["one record".to_owned(), record.show("µs"), String::new()]];
    let Some(wrk) = machine::peer("wrk", "apt-get install wrk") else {
        measure::table(HEAD, &rows);
        return Ok(());
    };
    let (_up, port, _) = cold::up(margay, &[])?;
    margay.build("adopt")?;
    cold::serve(margay, port)?;
    let tokens = Tokens::load(&margay.home().join("registry/token.key"))?;
    let access = [("me/adopt".parse()?, vec![Action::Pull])];
    let bearer = format!("Authorization: Bearer {}", tokens.mint("bench", &access, TOKEN_TIME));
    let url = format!("http://127.0.0.1:{port}/v2/me/adopt/manifests/v1");
    rows.push(row("manifests of the registry, each recorded", &record, &wrk, &url, &bearer)?);
    let (address, token) = control_plane(margay)?;
    let (url, bearer) =
        (format!("https://{address}/v1/clusters"), format!("Authorization: Bearer {token}"));
    rows.push(row("lists of the control plane, each recorded", &record, &wrk, &url, &bearer)?);
    measure::table(HEAD, &rows);
    Ok(())
}

fn row(title: &str, record: &Samples, wrk: &Path, url: &str, bearer: &str) -> Result<[String; 3]> {
    let mut rates = Samples::default();
    for _ in 0..ROUNDS / 4 {
        rates.push(load::wrk_with(wrk, url, 16, TIME, &["-H", bearer])?.rate);
    }
    let share = record.median() / 1e6 * rates.median();
    let ratio = format!("{:.3} of what it were without", 1.0 - share);
    Ok([title.to_owned(), rates.show("/s"), ratio])
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
        let begun = Instant::now();
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
        samples.push(begun.elapsed().as_secs_f64() * 1e6 / f64::from(RECORDS));
    }
    Ok(samples)
}
