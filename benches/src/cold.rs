//! The first request after idle: no worker alive, its listener kept by the agent.

use std::time::Instant;

use anyhow::Result;

use crate::{
    measure::{self, Samples},
    platform::Margay,
};

const RUNS: usize = 100;

/// `margay invoke`, a task made for one request; its own clock starts when the request is there.
pub fn run(margay: &Margay) -> Result<()> {
    margay.build("adopt")?;
    let mut whole = Samples::default();
    for run in 0..=RUNS {
        let start = Instant::now();
        margay.run(["invoke", "adopt", "--path", "/whoami"])?;
        if run > 0 {
            whole.push_time(start.elapsed());
        }
    }
    let row = [
        "margay invoke adopt, from exec to exit".to_owned(),
        whole.show("ms"),
        format!("{:.1} ms", whole.quantile(0.99)),
    ];
    measure::table(["nothing alive", "median (min to max)", "p99"], &[row]);
    Ok(())
}
