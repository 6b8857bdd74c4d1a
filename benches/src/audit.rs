//! What the audit log costs: a record by itself, and its part of a request that is recorded.

use std::time::{Duration, Instant};

use ::audit::{AuditLog, Event};
use anyhow::Result;
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
/// with the same one less the time of its record, on the one processor that the registry has here.
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
    let mut rates = Samples::default();
    for _ in 0..ROUNDS / 4 {
        rates.push(load::wrk_with(&wrk, &url, 16, TIME, &["-H", &bearer])?.rate);
    }
    let share = record.median() / 1e6 * rates.median();
    let ratio = format!("{:.3} of what it were without", 1.0 - share);
    rows.push(["manifests of the registry, each recorded".to_owned(), rates.show("/s"), ratio]);
    measure::table(HEAD, &rows);
    Ok(())
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
