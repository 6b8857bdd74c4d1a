use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};

use crate::limits::VERSION_TIME_MAX;
use crate::{Error, host::cgroup, host::command, host::package};

/// An OCI runtime that is installed on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    pub kind: RuntimeKind,
    /// Its program, an absolute path.
    pub path: PathBuf,
    /// As it prints it, `1.1.5` of `1.1.5+ds1`.
    pub version: Version,
}

/// The runtimes that margay can drive. They share one command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// github.com/containers/crun
    Crun,
    /// github.com/opencontainers/runc
    Runc,
    /// github.com/youki-dev/youki
    Youki,
}

/// Major, minor, patch.
pub type Version = (u32, u32, u32);

/// A known vulnerability of a runtime, by the version that it prints. Distributions backport fixes
/// without changing that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vulnerability {
    pub cve: &'static str,
    /// What it lets a container do, as a clause.
    pub what: &'static str,
}

/// Published in 2024 and 2025, with the first versions without it, one for each line of releases.
const RUNC: &[(Vulnerability, &[Version])] = &[
    (
        Vulnerability {
            cve: "CVE-2024-21626",
            what: "a working directory under /proc/self/fd reaches the host's files",
        },
        &[(1, 1, 12)],
    ),
    (
        Vulnerability {
            cve: "CVE-2025-31133",
            what: "a replaced /dev/null unmasks paths of /proc",
        },
        &[(1, 2, 8), (1, 3, 3), (1, 4, 0)],
    ),
    (
        Vulnerability {
            cve: "CVE-2025-52565",
            what: "a replaced /dev/console is mounted before paths are masked",
        },
        &[(1, 2, 8), (1, 3, 3), (1, 4, 0)],
    ),
    (
        Vulnerability { cve: "CVE-2025-52881", what: "writes to /proc can be led elsewhere" },
        &[(1, 2, 8), (1, 3, 3), (1, 4, 0)],
    ),
];

const CRUN: &[(Vulnerability, &[Version])] = &[(
    Vulnerability {
        cve: "CVE-2025-24965",
        what: "the krun handler writes outside of the root file system",
    },
    &[(1, 20, 0)],
)];

/// Packages in which a distribution has fixed one under the old number: Debian 12 and 11.
const PACKAGES: &[(&str, &str)] =
    &[("CVE-2024-21626", "1.1.5+ds1-1+deb12u1"), ("CVE-2024-21626", "1.0.0~rc93+ds1-5+deb11u3")];

/// The upstream part of a package's version.
fn upstream(package: &str) -> &str {
    package.rsplit_once('-').map_or(package, |(upstream, _)| upstream)
}

impl RuntimeKind {
    /// In order of preference.
    const ALL: [Self; 3] = [Self::Crun, Self::Runc, Self::Youki];

    /// The name of its program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
            Self::Youki => "youki",
        }
    }

    /// The oldest version of each line of releases that counts as current.
    fn minimum_versions(self) -> &'static [Version] {
        match self {
            Self::Crun => &[(1, 28, 0)],
            Self::Runc => &[(1, 3, 6), (1, 4, 3), (1, 5, 0)],
            Self::Youki => &[(0, 7, 0)],
        }
    }

    fn published_vulnerabilities(self) -> &'static [(Vulnerability, &'static [Version])] {
        match self {
            Self::Crun => CRUN,
            Self::Runc => RUNC,
            Self::Youki => &[],
        }
    }
}

impl Runtime {
    /// The best runtime on the `PATH`: the first of crun, runc and youki that is new enough, else
    /// the first that works.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] when there is none, [`Error::Runtime`] when the only ones there do not
    /// work.
    pub fn probe() -> Result<Self, Error> {
        Self::probe_in(&search_path(), cgroup::is_hybrid(), Self::ask)
    }

    /// The same among the programs in `path`, with `ask` to ask one.
    pub(crate) fn probe_in(
        path: &std::ffi::OsStr,
        hybrid: bool,
        mut ask: impl FnMut(RuntimeKind, PathBuf) -> Result<Self, Error>,
    ) -> Result<Self, Error> {
        let mut old = None;
        let mut broken = None;
        for kind in RuntimeKind::ALL {
            let Some(program) = find(kind.name(), path) else { continue };
            // Never tried there: how it does without cgroups is not known.
            if kind == RuntimeKind::Youki && !rustix::process::geteuid().is_root() {
                continue;
            }
            if kind == RuntimeKind::Crun && hybrid {
                let runtime = program.display().to_string();
                let what =
                    "needs cgroup v1 or v2, and this host divides its controllers among both"
                        .to_owned();
                broken = broken.or(Some(Error::Runtime { runtime, what }));
                continue;
            }
            match ask(kind, program) {
                Ok(runtime) if runtime.is_current() => return Ok(runtime),
                Ok(runtime) => old = old.or(Some(runtime)),
                Err(error) => broken = broken.or(Some(error)),
            }
        }
        old.ok_or_else(|| broken.unwrap_or(Error::NoRuntime))
    }

    /// Asks one program for its version.
    ///
    /// # Errors
    /// [`Error::Runtime`] when it does not answer within ten seconds, fails, or answers something
    /// else.
    pub fn ask(kind: RuntimeKind, path: PathBuf) -> Result<Self, Error> {
        let wrong = |what: String| Error::Runtime { runtime: path.display().to_string(), what };
        let output = command::output(Command::new(&path).arg("--version"), VERSION_TIME_MAX)
            .map_err(wrong)?;
        let version = version_in(&output, kind).ok_or_else(|| {
            let minimum = Printed(kind.minimum_versions()[0]);
            wrong(format!(
                "does not print its version; {} {minimum} or newer is needed",
                kind.name()
            ))
        })?;
        Ok(Self { kind, path, version })
    }

    /// Whether it is new enough to be recommended. An older one is used with a warning.
    pub fn is_current(&self) -> bool {
        reaches(self.version, self.kind.minimum_versions())
    }

    /// The known vulnerabilities of its version, without those that its distribution is known to
    /// have fixed under the same number.
    pub fn vulnerabilities(&self) -> Vec<Vulnerability> {
        self.vulnerabilities_of(package::version(self.kind.name(), &self.path).as_deref())
    }

    fn vulnerabilities_of(&self, package: Option<&str>) -> Vec<Vulnerability> {
        let is_fixed = |vulnerability: &Vulnerability| {
            let fixes = PACKAGES.iter().filter(|(cve, _)| *cve == vulnerability.cve);
            package.is_some_and(|package| {
                fixes.clone().any(|(_, fixed)| {
                    package.starts_with(upstream(fixed)) && package::compare(package, fixed).is_ge()
                })
            })
        };
        let vulnerabilities = self.kind.published_vulnerabilities().iter();
        vulnerabilities
            .filter(|(_, fixed)| !reaches(self.version, fixed))
            .map(|(vulnerability, _)| *vulnerability)
            .filter(|vulnerability| !is_fixed(vulnerability))
            .collect()
    }

    /// One sentence when it is not current.
    pub fn warning(&self) -> Option<String> {
        if self.is_current() {
            return None;
        }
        let minimum = Printed(self.kind.minimum_versions()[0]);
        let old = || format!("{self} is older than {minimum}");
        Some(self.escapes().unwrap_or_else(old))
    }

    /// One sentence when a container may get out of it by what is known.
    pub fn escapes(&self) -> Option<String> {
        let named = |known: &Vulnerability| format!("{} ({})", known.cve, known.what);
        let known: Vec<_> = self.vulnerabilities().iter().map(named).collect();
        let minimum = Printed(self.kind.minimum_versions()[0]);
        (!known.is_empty()).then(|| {
            let known = known.join(", ");
            format!(
                "{self} is older than {minimum}; unless your distribution has fixed them, it has \
                 {known}"
            )
        })
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), Printed(self.version))
    }
}

struct Printed(Version);

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0.0, self.0.1, self.0.2)
    }
}

/// Whether `version` is at least the entry of its own line of releases, or newer than all lines.
fn reaches(version: Version, lines: &[Version]) -> bool {
    let line = |v: Version| (v.0, v.1);
    match lines.iter().find(|first| line(**first) == line(version)) {
        Some(first) => version >= *first,
        None => lines.iter().all(|first| line(*first) < line(version)),
    }
}

/// The `PATH`, and where distributions put such programs, which an ordinary user's may lack.
pub(crate) fn search_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH");
    let mut path = path.unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    if !rustix::process::geteuid().is_root() {
        path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    }
    path
}

fn find(name: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Reads `runc version 1.1.5+ds1`, `crun version 1.28`, `youki version 0.7.0`.
fn version_in(output: &str, kind: RuntimeKind) -> Option<Version> {
    let line = output.lines().find(|line| line.starts_with(kind.name()))?;
    let word =
        line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits_end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    let mut numbers = word[..digits_end].split('.').map(str::parse::<u32>);
    let mut next = || numbers.next().transpose().ok();
    Some((next()??, next()??, next()?.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe_in(path: &Path, hybrid: bool) -> Result<Runtime, Error> {
        Runtime::probe_in(path.as_os_str(), hybrid, Runtime::ask)
    }

    #[test]
    fn versions_are_read_as_the_runtimes_print_them() {
        for (output, kind, want) in [
            (
                "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1\nspec: 1.0.2-dev\n",
                RuntimeKind::Runc,
                Some((1, 1, 5)),
            ),
            ("crun version 1.28\ncommit: abc\n", RuntimeKind::Crun, Some((1, 28, 0))),
            ("crun version 1.8.1\n", RuntimeKind::Crun, Some((1, 8, 1))),
            ("youki version 0.7.0\n", RuntimeKind::Youki, Some((0, 7, 0))),
            ("runc version 1.4.0-rc.1\n", RuntimeKind::Runc, Some((1, 4, 0))),
            ("runc version 99999999999.1\n", RuntimeKind::Runc, None),
            ("runc version x\n", RuntimeKind::Runc, None),
            ("{\"garbage\": 1}", RuntimeKind::Runc, None),
            ("", RuntimeKind::Runc, None),
        ] {
            assert_eq!(version_in(output, kind), want, "{output}");
        }
    }

    #[test]
    fn an_old_runtime_is_reported_with_its_vulnerabilities() {
        let runtime = |kind, version| Runtime { kind, path: PathBuf::from("/x"), version };
        for (kind, version, current, vulnerabilities) in [
            (RuntimeKind::Runc, (1, 1, 5), false, 4),
            (RuntimeKind::Runc, (1, 1, 12), false, 3),
            (RuntimeKind::Runc, (1, 2, 8), false, 0),
            (RuntimeKind::Runc, (1, 3, 5), false, 0),
            (RuntimeKind::Runc, (1, 3, 6), true, 0),
            (RuntimeKind::Runc, (1, 4, 2), false, 0),
            (RuntimeKind::Runc, (1, 5, 0), true, 0),
            (RuntimeKind::Runc, (2, 0, 0), true, 0),
            (RuntimeKind::Crun, (1, 8, 1), false, 1),
            (RuntimeKind::Crun, (1, 28, 0), true, 0),
            (RuntimeKind::Youki, (0, 6, 9), false, 0),
        ] {
            let runtime = runtime(kind, version);
            assert_eq!(
                (runtime.is_current(), runtime.vulnerabilities().len()),
                (current, vulnerabilities),
                "{runtime}"
            );
            assert_eq!(runtime.warning().is_none(), current, "{runtime}");
        }
        let warning = runtime(RuntimeKind::Runc, (1, 1, 5)).warning().unwrap();
        assert!(
            warning.contains("runc 1.1.5 is older than 1.3.6")
                && warning.contains("CVE-2025-31133"),
            "{warning}"
        );
    }

    #[test]
    fn a_fix_of_a_distribution_counts_under_the_old_number() {
        let path = PathBuf::from("/usr/sbin/runc");
        let runc = Runtime { kind: RuntimeKind::Runc, path, version: (1, 1, 5) };
        for (package, fixed) in [
            (None, false),
            (Some("1.1.5+ds1-1"), false),
            (Some("1.1.5+ds1-1+deb12u1"), true),
            (Some("1.1.5+ds1-1+deb12u2"), true),
            (Some("1.1.7-1"), false),
        ] {
            let left = runc.vulnerabilities_of(package);
            let has = left.iter().any(|known| known.cve == "CVE-2024-21626");
            assert_eq!(has, !fixed, "{package:?}");
            assert_eq!(left.len(), if fixed { 3 } else { 4 }, "{package:?}");
        }
    }

    #[test]
    fn no_runtime_names_what_to_install() {
        let empty = tempfile::tempdir().unwrap();
        let error = probe_in(empty.path(), false).unwrap_err();
        assert_eq!(error.code(), "E_RUNTIME");
        assert!(error.to_string().contains("no OCI runtime"), "{error}");
        assert!(error.hint().unwrap().contains("apt-get install runc"));
    }

    #[test]
    fn a_runtime_that_fails_or_prints_nonsense_is_named() {
        use std::os::unix::fs::PermissionsExt;
        for (script, want) in [
            ("#!/bin/sh\nexit 137\n", "exit status: 137"),
            ("#!/bin/sh\necho '{\"version\": 12'\n", "does not print its version"),
            ("#!/bin/sh\nyes | head -c 10000000\n", "does not print its version"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let program = folder.path().join("runc");
            std::fs::write(&program, script).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let error = probe_in(folder.path(), false).unwrap_err();
            assert_eq!(error.code(), "E_RUNTIME");
            assert!(error.to_string().contains(want), "{script}: {error}");
        }
    }

    #[test]
    fn a_runtime_that_cannot_work_on_this_host_is_skipped() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let install = |name: &str, version: &str| {
            let program = folder.path().join(name);
            std::fs::write(&program, format!("#!/bin/sh\necho {name} version {version}\n"))
                .unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        install("crun", "1.28");
        let chosen = |hybrid| probe_in(folder.path(), hybrid);
        assert_eq!(chosen(false).unwrap().kind, RuntimeKind::Crun);
        let error = chosen(true).unwrap_err().to_string();
        assert!(error.contains("crun") && error.contains("divides its controllers"), "{error}");
        install("runc", "1.1.5");
        assert_eq!(chosen(true).unwrap().kind, RuntimeKind::Runc);
        assert_eq!(chosen(false).unwrap().kind, RuntimeKind::Crun);
    }
}
