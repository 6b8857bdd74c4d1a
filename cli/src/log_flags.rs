//! `--log-driver` and `--log-opt`: what they mean for the one log that a task has, a file in its
//! folder of which the last part is kept.

use anyhow::{bail, ensure};
use spec::{LimitOverrides, print_bytes};

use crate::failure::{Advice, USAGE_ERROR};

/// What Docker's `local` keeps in one file, and how many files.
const LOCAL_BYTES: u64 = 20 << 20;
const LOCAL_FILES: u64 = 5;

#[derive(Debug, clap::Args)]
pub struct LogFlags {
    /// Keep a log, or none: json-file, local or none
    #[arg(long, value_name = "DRIVER", value_parser = driver)]
    log_driver: Option<Driver>,
    /// Keep as much of it as in max-file files of max-size bytes [default: 16m]
    #[arg(long, value_name = "max-size=BYTES|max-file=NUMBER")]
    log_opt: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    JsonFile,
    Local,
    None,
}

fn driver(text: &str) -> Result<Driver, &'static str> {
    match text {
        // An empty one is Docker's default.
        "json-file" | "" => Ok(Driver::JsonFile),
        "local" => Ok(Driver::Local),
        "none" => Ok(Driver::None),
        _ => Err("a log is kept in the folder of its task and sent nowhere: use json-file, local \
                  or none, and read it with `margay logs`"),
    }
}

impl LogFlags {
    /// Whether no log is to be kept.
    pub fn is_none(&self) -> bool {
        self.log_driver == Some(Driver::None)
    }

    /// How many bytes of log are to be kept; nothing where that was not said.
    pub fn bytes_max(&self) -> anyhow::Result<Option<u64>> {
        let (mut size, mut files) = (None, None);
        for option in &self.log_opt {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "max-size" => size = Some(spec::parse_bytes(value)?),
                "max-file" => match value.parse::<u64>() {
                    Ok(number @ 1..) => files = Some(number),
                    _ => {
                        bail!(misused(format!("`{value}` is no number of files"), "use 1 or more"))
                    }
                },
                _ => bail!(misused(
                    format!("a log has no option `{}`", name.escape_debug()),
                    "use max-size=BYTES and max-file=NUMBER"
                )),
            }
        }
        ensure!(
            !self.is_none() || self.log_opt.is_empty(),
            misused("--log-driver none keeps no log that could have options", "leave one out")
        );
        let is_local = self.log_driver == Some(Driver::Local);
        let (usual_size, usual_files) = match is_local {
            true => (Some(LOCAL_BYTES), LOCAL_FILES),
            false => (None, 1),
        };
        let Some(size) = size.or(usual_size.filter(|_| files.is_some())) else {
            ensure!(
                files.is_none(),
                misused("max-file without max-size limits nothing", "add --log-opt max-size=BYTES")
            );
            return Ok(None);
        };
        let bytes = size.saturating_mul(files.unwrap_or(usual_files));
        ensure!(
            LimitOverrides::default().set(&format!("log={bytes}")).is_ok(),
            misused(
                format!("`--log-opt` asks for a log of {}", print_bytes(bytes)),
                "keep 64k to 1g in all of its files together"
            )
        );
        Ok(Some(bytes))
    }
}

fn misused(message: impl Into<String>, hint: &str) -> Advice {
    Advice::new(message.into()).hint(hint).code(USAGE_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_log_say_how_much_is_kept() {
        for (driver_name, options, want) in [
            ("", "", Ok(None)),
            ("json-file", "max-size=10m", Ok(Some(10 << 20))),
            ("json-file", "max-size=10m max-file=3", Ok(Some(30 << 20))),
            ("local", "max-size=1m", Ok(Some(5 << 20))),
            ("local", "max-file=2", Ok(Some(40 << 20))),
            ("local", "", Ok(None)),
            ("none", "", Ok(None)),
            ("none", "max-size=1m", Err("keeps no log")),
            ("", "max-file=3", Err("max-file without max-size")),
            ("", "max-size=1k max-file=2", Err("asks for a log of 2KiB")),
            ("", "max-size=1g max-file=2", Err("asks for a log of 2GiB")),
            ("", "max-size=1m max-file=0", Err("no number of files")),
            ("", "max-size=much", Err("`much`")),
            ("", "tag=x", Err("no option `tag`")),
        ] {
            let flags = LogFlags {
                log_driver: Some(driver_name)
                    .filter(|name| !name.is_empty())
                    .map(|name| driver(name).expect("a driver")),
                log_opt: options.split_whitespace().map(str::to_owned).collect(),
            };
            match (flags.bytes_max(), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{driver_name} {options}"),
                (Err(error), Err(want)) => {
                    assert!(error.to_string().contains(want), "{options}: {error}");
                }
                (got, want) => panic!("{driver_name} {options}: {got:?}, not {want:?}"),
            }
        }
        assert!(driver("syslog").is_err());
    }
}
