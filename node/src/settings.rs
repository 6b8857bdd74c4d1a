use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use spec::{Capability, HealthCheck, ImageConfig, Port};

use crate::error::{Error, Result};

/// What a run may choose beyond its image, besides what it grants. Most of it can only mean
/// something for a Linux program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `-u`: instead of the image's USER.
    pub user: Option<String>,
    /// `-w`: instead of the image's WORKDIR.
    pub working_dir: Option<String>,
    /// `--stop-signal`: instead of the image's STOPSIGNAL.
    pub stop_signal: Option<String>,
    /// `--cpus`, in thousandths.
    pub cpu_millis: Option<u32>,
    /// `-l`: what the caller wants to remember about the task.
    pub labels: BTreeMap<String, String>,
    /// `-P`: publish every port that the image or `expose` names.
    pub publish_all: bool,
    /// `--expose`.
    pub expose: BTreeSet<Port>,
    /// `--health-cmd` and its kin. What is left out is the image's.
    pub health: Option<HealthCheck>,
    /// `--log-driver none`: what it writes is kept nowhere.
    pub no_log: bool,
    /// `-a`: which streams are ours; all of them when left out.
    pub attach: Option<Attach>,
    /// What an OCI runtime is told.
    pub linux: shim::Settings,
}

/// The streams that a task in the foreground writes to, besides its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    pub stdout: bool,
    pub stderr: bool,
}

impl Settings {
    /// Names the first setting that a Wasm program cannot have.
    pub(crate) fn check_for_wasm(&self) -> Result<()> {
        let refused = |flag, why, hint| Err(Error::NotForWasm { flag, why, hint });
        let linux = &self.linux;
        match self {
            _ if self.user.is_some() => refused(
                "--user",
                "it has no user, and its files have no owners",
                "say what it may do with files: --allow fs:/PATH#r",
            ),
            _ if self.stop_signal.is_some() => {
                refused("--stop-signal", "it receives no signals", "leave it out")
            }
            _ if self.cpu_millis.is_some() && !engine::cgroup::limits_processors() => refused(
                "--cpus",
                "this user may make no cgroup that could share processors out",
                "limit a request or a command: --cpu-time DURATION",
            ),
            _ if linux.memory_bytes_soft.is_some() => refused(
                "--memory-reservation",
                "its memory has one limit, and nothing is taken back below it",
                "limit its memory: -m BYTES",
            ),
            _ if linux.hostname.is_some() => {
                refused("--hostname", "it cannot ask for a host name", "pass one: -e NAME=VALUE")
            }
            _ if !linux.hosts.is_empty() => refused(
                "--add-host",
                "names are looked up outside of it, by the resolver of this machine",
                "grant the address: --allow net.out:http://ADDRESS",
            ),
            _ if !linux.groups.is_empty() => {
                refused("--group-add", "it has no user and no groups", "leave it out")
            }
            _ if linux.init => refused(
                "--init",
                "it starts no processes that an init could wait for, and its end is margay's",
                "leave it out",
            ),
            _ if linux.shm_bytes_max.is_some() => {
                refused("--shm-size", "it has no /dev/shm", "limit its memory: -m BYTES")
            }
            _ if !linux.ulimits.is_empty() => refused(
                "--ulimit",
                "it is one process, whose limits margay sets",
                "limit its memory with -m, its time with --timeout and --cpu-time",
            ),
            _ => Ok(()),
        }
    }

    /// Names the first setting that the container of a Linux image cannot have: an ordinary user
    /// makes no cgroup for it.
    pub(crate) fn check_for_linux(&self) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let refused = |flag: &str, why: &str, hint: &str| {
            let why = format!("`{flag}` takes root for a Linux image: {why}");
            Err(Error::Native { why, hint: Some(hint.to_owned()) })
        };
        match self {
            _ if self.cpu_millis.is_some() => refused(
                "--cpus",
                "an ordinary user's tasks are in no cgroup that could share processors out",
                "leave it out, or limit the time that it takes: --cpu-time DURATION",
            ),
            _ if self.linux.memory_bytes_soft.is_some() => refused(
                "--memory-reservation",
                "an ordinary user's tasks are in no cgroup that the kernel could spare",
                "limit its memory: -m BYTES",
            ),
            _ => Ok(()),
        }
    }

    /// What a Wasm program is granted by them: a tmpfs is a folder of its writable layer, which is
    /// in memory.
    pub(crate) fn wasm_grants(&self) -> Result<Vec<Capability>> {
        let line = |tmpfs: &shim::Tmpfs| {
            let rights = if tmpfs.read_only { "r" } else { "rwd" };
            let most = tmpfs.bytes_max.map(|bytes| format!(";max={}", spec::print_bytes(bytes)));
            let line = format!("fs:{}#{rights}{}", tmpfs.path, most.unwrap_or_default());
            line.parse().map_err(|_| Error::BadArgument {
                text: tmpfs.path.clone(),
                what: "a folder for --tmpfs, as in /scratch",
            })
        };
        self.linux.tmpfs.iter().map(line).collect()
    }

    /// The image's check of its health as this run has it.
    pub(crate) fn health_check(&self, image: Option<&HealthCheck>) -> Option<HealthCheck> {
        let Some(given) = &self.health else { return image.cloned() };
        let image = image.cloned().unwrap_or_default();
        let test = if given.test.is_empty() { image.test } else { given.test.clone() };
        Some(HealthCheck {
            test,
            interval: given.interval.or(image.interval),
            timeout: given.timeout.or(image.timeout),
            start_period: given.start_period.or(image.start_period),
            start_interval: given.start_interval.or(image.start_interval),
            retries: given.retries.or(image.retries),
        })
    }

    /// The image's config as this run has it.
    pub(crate) fn applied_to(&self, config: &ImageConfig) -> ImageConfig {
        let mut config = config.clone();
        let execution = config.config.get_or_insert_default();
        for (given, place) in [
            (&self.user, &mut execution.user),
            (&self.working_dir, &mut execution.working_dir),
            (&self.stop_signal, &mut execution.stop_signal),
        ] {
            if given.is_some() {
                place.clone_from(given);
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_wasm_program_cannot_have_is_named() {
        let linux = |linux| Settings { linux, ..Settings::default() };
        let text = || Some("x".to_owned());
        let usual = shim::Settings::default;
        for (settings, flag) in [
            (Settings { user: text(), ..Settings::default() }, "--user"),
            (Settings { stop_signal: text(), ..Settings::default() }, "--stop-signal"),
            (linux(shim::Settings { hostname: text(), ..usual() }), "--hostname"),
            (linux(shim::Settings { groups: vec!["www".to_owned()], ..usual() }), "--group-add"),
            (linux(shim::Settings { shm_bytes_max: Some(1), ..usual() }), "--shm-size"),
            (linux(shim::Settings { init: true, ..usual() }), "--init"),
            (
                linux(shim::Settings { memory_bytes_soft: Some(1), ..usual() }),
                "--memory-reservation",
            ),
            (
                linux(shim::Settings { hosts: vec!["db:1.2.3.4".parse().unwrap()], ..usual() }),
                "--add-host",
            ),
            (
                linux(shim::Settings { ulimits: vec!["nofile=9".parse().unwrap()], ..usual() }),
                "--ulimit",
            ),
        ] {
            let error = settings.check_for_wasm().expect_err(flag);
            assert!(error.to_string().starts_with(&format!("`{flag}`")), "{error}");
            assert!(error.hint().is_some(), "{flag}");
        }
        let both = Settings {
            working_dir: text(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            linux: shim::Settings { processes_max: Some(9), ..usual() },
            ..Settings::default()
        };
        both.check_for_wasm().unwrap();
    }

    #[test]
    fn a_tmpfs_of_a_wasm_program_is_a_grant() {
        let tmpfs = ["/a:size=64m", "/b:ro", "/c"].map(|text| text.parse().unwrap());
        let linux = shim::Settings { tmpfs: tmpfs.to_vec(), ..shim::Settings::default() };
        let grants = Settings { linux, ..Settings::default() }.wasm_grants().unwrap();
        let lines: Vec<String> = grants.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["fs:/a#rwd;max=64MiB", "fs:/b#r", "fs:/c#rwd"]);
    }

    #[test]
    fn flags_of_health_go_before_the_image_one_by_one() {
        let check = |test: &str, interval, retries| HealthCheck {
            test: test.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
            interval,
            retries,
            ..HealthCheck::default()
        };
        let image = check("CMD /check", Some(5), Some(2));
        for (given, image, want) in [
            (None, None, None),
            (None, Some(&image), Some(image.clone())),
            (
                Some(check("", None, Some(9))),
                Some(&image),
                Some(check("CMD /check", Some(5), Some(9))),
            ),
            (
                Some(check("CMD-SHELL x", Some(7), None)),
                Some(&image),
                Some(check("CMD-SHELL x", Some(7), Some(2))),
            ),
            (Some(check("NONE", None, None)), Some(&image), Some(check("NONE", Some(5), Some(2)))),
            (Some(check("CMD /a", None, None)), None, Some(check("CMD /a", None, None))),
        ] {
            let settings = Settings { health: given.clone(), ..Settings::default() };
            assert_eq!(settings.health_check(image), want, "{given:?}");
        }
    }

    #[test]
    fn a_run_goes_before_its_image() {
        let settings = Settings { user: Some("www".to_owned()), ..Settings::default() };
        let execution =
            spec::ExecutionConfig { working_dir: Some("/srv".to_owned()), ..Default::default() };
        let image = ImageConfig { config: Some(execution), ..Default::default() };
        let applied = settings.applied_to(&image).config.unwrap();
        assert_eq!(
            (applied.user.unwrap(), applied.working_dir.unwrap()),
            ("www".into(), "/srv".into())
        );
    }
}
