use std::time::Duration;

use anyhow::Result;

/// What was seen in several rounds of the same thing.
#[derive(Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Takes one more in.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// Takes one more in; [`Samples::sort`] follows the last of many.
    pub fn push_unsorted(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn sort(&mut self) {
        self.0.sort_by(f64::total_cmp);
    }

    /// Takes one more in, in milliseconds.
    pub fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    /// The value below which the share `q` of all lies.
    pub fn quantile(&self, q: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// `median (min to max)`.
    pub fn show(&self, unit: &str) -> String {
        format!(
            "{:.1} {unit} ({:.1} to {:.1})",
            self.median(),
            self.quantile(0.0),
            self.quantile(1.0)
        )
    }
}

/// A Markdown table.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) {
    println!("| {} |", head.join(" | "));
    println!("|{}", "---|".repeat(N));
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
}

/// Something to measure again and again: its name, and how to get one number.
pub struct Contender<'a> {
    name: String,
    measure: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Contender<'a> {
    /// `measure` under `name`.
    pub fn new(name: &str, measure: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { name: name.to_owned(), measure: Box::new(measure) }
    }
}

/// Measures every contender once to warm up, then once a round, in turn, so that all meet the same
/// weather.
pub fn in_turn(rounds: usize, contenders: Vec<Contender<'_>>) -> Result<Vec<(String, Samples)>> {
    let mut all = Vec::new();
    for mut contender in contenders {
        (contender.measure)()?;
        all.push((contender, Samples::default()));
    }
    for _ in 0..rounds {
        for (contender, samples) in &mut all {
            samples.push((contender.measure)()?);
        }
    }
    Ok(all.into_iter().map(|(contender, samples)| (contender.name, samples)).collect())
}
