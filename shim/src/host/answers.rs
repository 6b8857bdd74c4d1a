use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use disk::Survives;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Runtime, RuntimeKind,
    host::{cgroup, probe::search_path},
    limits::OUTPUT_BYTES_MAX,
};

impl Runtime {
    /// As [`probe`](Self::probe), from memory where a program has not changed since it was asked:
    /// its start takes as long as all else before a container. `folder` keeps the answers; only
    /// root may enter it. With what is known against a program that was never asked before.
    ///
    /// # Errors
    /// As [`probe`](Self::probe).
    pub fn probe_from(folder: &Path) -> Result<(Self, Option<String>), Error> {
        Self::probe_among(folder, &search_path())
    }

    fn probe_among(folder: &Path, path: &OsStr) -> Result<(Self, Option<String>), Error> {
        let mut answers = Answers::read(folder);
        let runtime =
            Self::probe_in(path, cgroup::is_hybrid(), |kind, path| answers.ask(kind, path))?;
        let is_new = answers.asked.contains(&runtime.kind);
        let warning = is_new.then(|| runtime.escapes()).flatten();
        Ok((runtime, warning))
    }
}

const VERSION: u32 = 1;
const FILE: &str = "oci-runtimes.json";

/// What OCI runtimes have answered when asked for their version, each good for as long as its
/// program is the same file with the same content.
struct Answers {
    path: PathBuf,
    known: Vec<Answer>,
    /// Those that were asked anew.
    asked: Vec<RuntimeKind>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    program: Program,
    runtime: Runtime,
}

/// A file at one moment: every way to change it changes this, because nothing but the kernel sets
/// the time of its last change.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    answers: Vec<Answer>,
}

impl Answers {
    /// Those kept in `folder`. A file that cannot be read counts as none: it is only a memory.
    fn read(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let bytes = disk::read_optional(&path, OUTPUT_BYTES_MAX).ok().flatten();
        let document = bytes.and_then(|bytes| serde_json::from_slice::<Document>(&bytes).ok());
        let known = document.filter(|document| document.version == VERSION);
        let known = known.map(|document| document.answers).unwrap_or_default();
        Self { path, known, asked: Vec::new() }
    }

    /// What the program at `path` answers, or has answered.
    ///
    /// # Errors
    /// As [`Runtime::ask`]; no error is kept.
    fn ask(&mut self, kind: RuntimeKind, path: PathBuf) -> Result<Runtime, Error> {
        let program = Program::at(&path);
        let is_it = |answer: &&Answer| {
            (answer.runtime.kind, &answer.runtime.path) == (kind, &path)
                && Some(&answer.program) == program.as_ref()
        };
        if let Some(answer) = self.known.iter().find(is_it) {
            return Ok(answer.runtime.clone());
        }
        let runtime = Runtime::ask(kind, path)?;
        self.asked.push(kind);
        // One that was replaced while it was asked is asked again.
        if let Some(program) =
            program.filter(|before| Program::at(&runtime.path).as_ref() == Some(before))
        {
            self.known.retain(|answer| answer.runtime.kind != kind);
            self.known.push(Answer { program, runtime: runtime.clone() });
            self.write();
        }
        Ok(runtime)
    }

    /// Without success nothing is lost but time.
    fn write(&self) {
        let document = Document { version: VERSION, answers: self.known.clone() };
        if let Ok(bytes) = serde_json::to_vec(&document) {
            let _ = disk::write(&self.path, &bytes, Survives::Crash);
        }
    }
}

impl Program {
    fn at(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A runtime that writes down how often it was asked.
    fn install(folder: &Path, version: &str) -> PathBuf {
        let (program, calls) = (folder.join("runc"), folder.join("calls"));
        let script =
            format!("#!/bin/sh\necho call >>{}\necho runc version {version}\n", calls.display());
        let new = folder.join("runc.new");
        fs::write(&new, script).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &program).unwrap();
        program
    }

    fn calls(folder: &Path) -> usize {
        fs::read_to_string(folder.join("calls")).unwrap_or_default().lines().count()
    }

    #[test]
    fn a_runtime_is_asked_again_only_when_its_program_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let ask = |path: &Path| {
            let runtime = Answers::read(at).ask(RuntimeKind::Runc, path.to_owned());
            runtime.map(|runtime| runtime.version)
        };
        let program = install(at, "1.1.5");
        for _ in 0..3 {
            assert_eq!(ask(&program).unwrap(), (1, 1, 5));
        }
        assert_eq!(calls(at), 1, "its answer is kept");
        // As long, and with the old time: an upgrade from a package keeps the times of its files.
        let modified = fs::metadata(&program).unwrap().modified().unwrap();
        install(at, "1.3.6");
        fs::File::open(&program).unwrap().set_modified(modified).unwrap();
        assert_eq!((ask(&program).unwrap(), calls(at)), ((1, 3, 6), 2));
        fs::write(at.join(FILE), "{ not json").unwrap();
        assert_eq!((ask(&program).unwrap(), calls(at)), ((1, 3, 6), 3));
        let newer =
            fs::read_to_string(at.join(FILE)).unwrap().replace("\"version\":1,", "\"version\":2,");
        fs::write(at.join(FILE), newer).unwrap();
        assert_eq!((ask(&program).unwrap(), calls(at)), ((1, 3, 6), 4));
    }

    #[test]
    fn a_runtime_with_known_escapes_is_warned_of_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let warning = || Runtime::probe_among(at, at.as_os_str()).unwrap().1;
        install(at, "1.1.11");
        let first = warning().unwrap();
        assert!(first.contains("CVE-2024-21626") && first.contains("CVE-2025-31133"), "{first}");
        assert_eq!(warning(), None, "it was said");
        install(at, "1.1.4");
        assert!(warning().is_some(), "another one");
        install(at, "1.3.6");
        assert_eq!(warning(), None, "a good one");
    }

    #[test]
    fn a_runtime_that_failed_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("runc");
        fs::write(&program, "#!/bin/sh\nexit 3\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let ask = || Answers::read(folder.path()).ask(RuntimeKind::Runc, program.clone());
        assert!(ask().unwrap_err().to_string().contains("exit status: 3"));
        install(folder.path(), "1.3.6");
        assert_eq!(ask().unwrap().version, (1, 3, 6));
    }
}
