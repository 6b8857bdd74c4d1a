//! What several verbs take: durations, sizes, and variables and secrets from flags and files.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use node::{Stop, tasks::TaskFolder};
use spec::{SecretName, SecretValue, Timestamp};

use crate::{
    failure::{Advice, USAGE_ERROR},
    text_file::text_file,
};

/// Larger than any list of variables that was written by hand.
const ENV_FILE_BYTES_MAX: u64 = 1 << 20;

/// Options of the verbs that run a program from here.
#[derive(Debug, clap::Args)]
pub struct Variables {
    /// Set a variable; a name alone takes our own value
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file, one in each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
}

/// Options of the verbs that run a guest from here.
#[derive(Debug, clap::Args)]
pub struct Environment {
    #[command(flatten)]
    variables: Variables,
    /// Hand in a secret, which the guest finds as /run/secrets/NAME
    #[arg(long, value_name = "NAME=FILE")]
    secret: Vec<SecretFile>,
}

/// Options of the verbs that ask a task to end.
#[derive(Debug, clap::Args)]
pub struct StopFlags {
    /// Send this signal in place of the task's own stop signal
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// How long a task may take to end by itself, in seconds; -1 for as long as it takes
    /// [default: its --stop-timeout, or 10]
    #[arg(
        short,
        long,
        alias = "timeout",
        value_name = "SECONDS",
        value_parser = grace
    )]
    time: Option<Duration>,
}

/// Seconds as Docker counts them: any number below zero waits without end.
pub fn grace(text: &str) -> Result<Duration, String> {
    match text.parse::<i64>() {
        Ok(seconds) => Ok(u64::try_from(seconds)
            .map_or(Stop::GRACE_MAX, |seconds| Duration::from_secs(seconds).min(Stop::GRACE_MAX))),
        Err(_) => Err("give whole seconds, or -1 to wait without end".to_owned()),
    }
}

impl StopFlags {
    /// The signal that was named. A bad one is a failure and no misuse, as with Docker.
    pub fn signal(&self) -> anyhow::Result<Option<i32>> {
        Ok(self.signal.as_deref().map(node::parse_signal).transpose()?)
    }

    pub fn stop(&self, task: &TaskFolder, signal: Option<i32>) -> Stop {
        let grace = self.time.unwrap_or_else(|| node::grace_of(task));
        Stop { grace, signal }
    }
}

impl Variables {
    /// From `--env-file` (first) and `-e` (they win). A name alone takes its value from our own
    /// environment, and is left out when it has none there.
    pub fn read(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut variables = BTreeMap::new();
        for path in &self.env_file {
            let named = || format!("cannot read the variables in `{}`", path.display());
            let text = read_text(path, ENV_FILE_BYTES_MAX, named, "no list of variables")?;
            for line in text.lines().map(str::trim_start) {
                if !line.is_empty() && !line.starts_with('#') {
                    add(&mut variables, line)
                        .with_context(|| format!("in `{}`", path.display()))?;
                }
            }
        }
        for flag in &self.env {
            add(&mut variables, flag)?;
        }
        Ok(variables)
    }
}

impl Environment {
    /// See [`Variables::read`].
    pub fn variables(&self) -> anyhow::Result<BTreeMap<String, String>> {
        self.variables.read()
    }

    /// A value stands in a file and never among arguments, where every process could read it.
    pub fn secrets(&self) -> anyhow::Result<BTreeMap<SecretName, SecretValue>> {
        let (count, count_max) = (self.secret.len(), SecretValue::COUNT_MAX);
        if count > count_max {
            let message = format!("{count} secrets for one task, and {count_max} are the most");
            bail!(Advice::new(message).code(USAGE_ERROR));
        }
        let mut secrets = BTreeMap::new();
        for SecretFile { name, path } in &self.secret {
            if secrets.insert(name.clone(), secret(path)?).is_some() {
                bail!(Advice::new(format!("--secret has `{name}` twice")).code(USAGE_ERROR));
            }
        }
        Ok(secrets)
    }
}

impl Environment {
    pub fn secret_names(&self) -> Vec<SecretName> {
        self.secret.iter().map(|secret| secret.name.clone()).collect()
    }

    /// Where the secrets come from, for a later start of the same task. One from stdin cannot be
    /// read again.
    pub fn secret_files(&self) -> anyhow::Result<BTreeMap<SecretName, PathBuf>> {
        let files = self.secret.iter().filter(|secret| secret.path.as_os_str() != "-");
        let absolute = |file: &SecretFile| {
            let path = std::path::absolute(&file.path)
                .with_context(|| format!("cannot find `{}`", file.path.display()))?;
            Ok((file.name.clone(), path))
        };
        files.map(absolute).collect()
    }
}

/// Reads a text file, but none that is larger than what it should be: `not` says what it is not.
pub fn read_text(
    path: &Path,
    bytes_max: u64,
    named: impl Fn() -> String,
    not: &str,
) -> anyhow::Result<String> {
    let size = std::fs::metadata(path).with_context(&named)?.len();
    ensure!(
        size <= bytes_max,
        "`{}` has {size} bytes, which is {not}: at most {bytes_max}",
        path.display()
    );
    text_file(path, bytes_max).with_context(named)
}

fn add(variables: &mut BTreeMap<String, String>, text: &str) -> anyhow::Result<()> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    if format!("env:{name}").parse::<spec::Capability>().is_err() {
        let named = if name.is_empty() { text } else { name };
        let start: String = named.chars().take(100).collect();
        bail!(
            Advice::new(format!("`{start}` cannot name a variable"))
                .hint("use letters, digits and `_`, as in -e NAME=VALUE")
                .code(USAGE_ERROR)
        );
    }
    if let Some(value) = value {
        variables.insert(name.to_owned(), value);
    }
    Ok(())
}

/// `--secret NAME=FILE`.
#[derive(Debug, Clone)]
pub struct SecretFile {
    name: SecretName,
    path: PathBuf,
}

impl FromStr for SecretFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, path)) = text.split_once('=').filter(|(_, path)| !path.is_empty()) else {
            return Err("it is not NAME=FILE".to_owned());
        };
        Ok(Self {
            name: name.parse().map_err(|error: spec::ParseError| error.to_string())?,
            path: path.into(),
        })
    }
}

/// The address that was given where a path belongs, as Docker takes one.
pub fn remote(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let schemes = ["http://", "https://", "git://", "ssh://", "git@", "github.com/"];
    let is_address = schemes.iter().any(|scheme| text.starts_with(scheme));
    (is_address && !path.exists()).then_some(text)
}

/// A point in time as `--since` and `--until` take it: so long ago (`10m`), a date or time of RFC
/// 3339, or seconds since 1970.
///
/// # Errors
/// Shows the forms.
pub fn point_in_time(text: &str, now: Timestamp) -> Result<Timestamp, Advice> {
    let wrong = || {
        Advice::new(format!("`{text}` is no point in time"))
            .hint("write 10m for ten minutes ago, 2026-11-27T10:00:00Z, or seconds since 1970")
            .code(USAGE_ERROR)
    };
    if let Ok(ago) = spec::parse_duration(text) {
        let millis = u64::try_from(ago.as_millis()).map_err(|_| wrong())?;
        return Ok(Timestamp::from_millis(now.millis().saturating_sub(millis)));
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if is_number(whole) && is_number(fraction) {
        let seconds: u64 = whole.parse().map_err(|_| wrong())?;
        let millis: String = fraction.chars().chain("00".chars()).take(3).collect();
        let millis: u64 = millis.parse().map_err(|_| wrong())?;
        let all = seconds.checked_mul(1000).ok_or_else(wrong)?.saturating_add(millis);
        return Ok(Timestamp::from_millis(all));
    }
    moment(text).ok_or_else(wrong)
}

/// `2026-11-27`, `2026-11-27T10:00`, `2026-11-27T10:00:00.5Z`, `2026-11-27T10:00:00+02:00`. Without
/// a zone it is UTC, as every time that is printed.
fn moment(text: &str) -> Option<Timestamp> {
    let (date, clock) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00Z"));
    let zone = clock.find(['Z', '+', '-']).unwrap_or(clock.len());
    let (clock, zone) = clock.split_at(zone);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let clock = match clock.split(':').count() {
        1 => format!("{clock}:00:00"),
        2 => format!("{clock}:00"),
        _ => clock.to_owned(),
    };
    let millis: String = fraction.chars().chain("00".chars()).take(3).collect();
    let utc: Timestamp = format!("{date}T{clock}.{millis}Z").parse().ok()?;
    let minutes = |text: &str| {
        let (hours, minutes) = text.split_once(':')?;
        Some(hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?)
    };
    let millis = match zone.split_at_checked(1) {
        None | Some(("Z", "")) => utc.millis(),
        Some(("+", zone)) => utc.millis().checked_sub(minutes(zone)? * 60_000)?,
        Some(("-", zone)) => utc.millis() + minutes(zone)? * 60_000,
        Some(_) => return None,
    };
    Some(Timestamp::from_millis(millis))
}

/// The one line of stdin, without its end.
pub fn line_of_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(LINE_BYTES_MAX).read_to_string(&mut text).context("cannot read stdin")?;
    Ok(text.trim().to_owned())
}

/// Longer than any token.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// A secret from a file, byte for byte, or from stdin for `-`. No byte more is read than a secret
/// can have: a pipe has no size to look at.
pub fn secret(path: &Path) -> anyhow::Result<SecretValue> {
    let named = || format!("cannot read a secret from `{}`", path.display());
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path).with_context(named)?),
    };
    let mut bytes = Vec::new();
    source.take(SecretValue::BYTES_MAX as u64 + 1).read_to_end(&mut bytes).with_context(named)?;
    SecretValue::new(bytes).with_context(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_in_time_is_written_in_three_ways() {
        let now = Timestamp::from_millis(1_000_000_000);
        for (text, want) in [
            ("10m", Some(999_400_000)),
            ("1h30m", Some(994_600_000)),
            ("1732637000", Some(1_732_637_000_000)),
            ("1732637000.25", Some(1_732_637_000_250)),
            ("1970-01-02", Some(86_400_000)),
            ("1970-01-02T01:00", Some(90_000_000)),
            ("1970-01-02T01:00:00Z", Some(90_000_000)),
            ("1970-01-02T01:00:00.5Z", Some(90_000_500)),
            ("1970-01-02T01:00:00.123456789Z", Some(90_000_123)),
            ("1970-01-02T01:00:00+01:00", Some(86_400_000)),
            ("1970-01-02T01:00:00-01:00", Some(93_600_000)),
            ("yesterday", None),
            ("", None),
            ("10", Some(10_000)),
            ("99999999999999999999", None),
            ("1970-13-01", None),
        ] {
            let got = point_in_time(text, now).ok().map(Timestamp::millis);
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn a_name_alone_takes_our_value_and_a_bad_name_is_misuse() {
        let variables = |flags: &[&str]| {
            let env = flags.iter().map(|flag| (*flag).to_owned()).collect();
            Variables { env, env_file: Vec::new() }.read()
        };
        let error = |flag| variables(&[flag]).unwrap_err();
        let variables = variables(&["A=1", "B=x=y", "MARGAY_NO_SUCH_VARIABLE", "PATH"]).unwrap();
        assert_eq!(variables["A"], "1");
        assert_eq!(variables["B"], "x=y");
        assert_eq!(variables["PATH"], std::env::var("PATH").unwrap());
        assert_eq!(variables.len(), 3);
        for flag in ["=x", "A B=1", "a\nb"] {
            assert_eq!(crate::failure::code(&error(flag)), Some(USAGE_ERROR), "{flag}");
        }
    }
}
