//! Users and groups for the containers of an ordinary user, from the range that `/etc/subuid` and
//! `/etc/subgid` give that user: one for each worker, and as many as an image may have for a native
//! container.
//!
//! The kernel lets an ordinary user map its own ids alone. `newuidmap` and `newgidmap`, which are
//! set-user-id programs of the distribution, write the others, after they have looked into the same
//! two files.

use std::{
    ffi::CStr,
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Uid, getegid, geteuid, getpriority_user};

use crate::child::wait_until;

/// Ids in one line of `/etc/subuid`, from its first one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub first: u32,
    pub count: u32,
}

/// The ranges of the user that this process is, and the programs that map them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubordinateIds {
    pub users: Range,
    pub groups: Range,
    /// Whose they are.
    user: String,
    newuidmap: PathBuf,
    newgidmap: PathBuf,
}

/// Why workers have no ids of their own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lacking {
    /// `newuidmap` and `newgidmap` find a user by its number.
    #[error("uid {0} has no name in the user database")]
    Name(u32),
    #[error("`{file}` has no range of at least {RANGE_MIN} ids for `{user}`")]
    Range { file: &'static str, user: String },
    #[error("`{file}` has a range of {count} ids for `{user}`, and Linux images need {needed}")]
    Few { file: &'static str, user: String, count: u32, needed: u32 },
    #[error("there is no `{0}` with the rights of root in /usr/bin or /bin")]
    Program(&'static str),
    #[error("this process runs with no_new_privs, so `newuidmap` has no rights")]
    NoNewPrivileges,
    /// As one of the programs said.
    #[error("{0}")]
    Refused(String),
}

impl Lacking {
    /// What gives them.
    pub fn hint(&self) -> String {
        match self {
            Self::Name(_) => "give the user a name: useradd -u UID NAME".to_owned(),
            Self::Range { user, .. } | Self::Few { user, .. } => format!(
                "give it one, as root: usermod --add-subuids 100000-165535 --add-subgids \
                 100000-165535 {user}"
            ),
            Self::Program(_) => "install it: apt-get install uidmap (Fedora: shadow-utils)".into(),
            Self::NoNewPrivileges => {
                "start margay without NoNewPrivileges= or `setpriv --no-new-privs`".to_owned()
            }
            Self::Refused(_) => {
                "see that the ranges in /etc/subuid and /etc/subgid exist in the container or \
                 user namespace around us"
                    .to_owned()
            }
        }
    }
}

/// With fewer, workers would wait for each other's ids. Distributions give 65,536.
const RANGE_MIN: u32 = 1024;
/// A machine has some lines for each of its users.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The programs take a millisecond, and longer where a directory service knows the users.
const MAPPING_TIME_MAX: Duration = Duration::from_secs(10);

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";

static FOUND: LazyLock<Mutex<Result<SubordinateIds, Lacking>>> =
    LazyLock::new(|| Mutex::new(find()));

/// Those of this process's user.
///
/// # Errors
/// Why there are none, or why they cannot be used, as far as it is known by now.
pub fn available() -> Result<SubordinateIds, Lacking> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Remembers that no namespace can be given any.
pub fn give_up(why: Lacking) {
    *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = Err(why);
}

fn find() -> Result<SubordinateIds, Lacking> {
    if rustix::thread::no_new_privs().unwrap_or(false) {
        return Err(Lacking::NoNewPrivileges);
    }
    let (newuidmap, newgidmap) = (program("newuidmap")?, program("newgidmap")?);
    let uid = geteuid().as_raw();
    let user = name_of(uid).ok_or(Lacking::Name(uid))?;
    let range = |file: &'static str| {
        let text = disk::read(Path::new(file), FILE_BYTES_MAX).unwrap_or_default();
        largest(&String::from_utf8_lossy(&text), &user, uid)
            .ok_or_else(|| Lacking::Range { file, user: user.clone() })
    };
    let (users, groups) = (range(SUBUID)?, range(SUBGID)?);
    Ok(SubordinateIds { users, groups, user, newuidmap, newgidmap })
}

/// A program of the distribution. Not searched for in `PATH`: it is to have rights that its
/// starter has not.
fn program(name: &'static str) -> Result<PathBuf, Lacking> {
    let places = ["/usr/bin", "/bin"].into_iter().map(|folder| Path::new(folder).join(name));
    places.into_iter().find(|path| is_privileged(path)).ok_or(Lacking::Program(name))
}

/// Set-user-id, or with capabilities of its file.
fn is_privileged(path: &Path) -> bool {
    const SET_USER_ID: u32 = 0o4000;
    let set_user_id = fs::metadata(path).is_ok_and(|it| it.permissions().mode() & SET_USER_ID != 0);
    set_user_id || rustix::fs::getxattr(path, c"security.capability", &mut [0u8; 64]).is_ok()
}

/// The largest range of a user in such a file, whose lines are `USER:FIRST:COUNT`; a user is named
/// or numbered there.
fn largest(text: &str, user: &str, uid: u32) -> Option<Range> {
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if owner != user && owner.parse() != Ok(uid) {
            return None;
        }
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse::<u32>().ok()?);
        // The last id means none.
        let count = count.min(u32::MAX - first);
        (count >= RANGE_MIN && first > 0).then_some(Range { first, count })
    });
    ranges.max_by_key(|range| range.count)
}

#[expect(unsafe_code, reason = "std has no user database")]
fn name_of(uid: u32) -> Option<String> {
    // As much as glibc recommends for a user with a long entry.
    let mut text = vec![0; 16 << 10];
    let mut found = std::ptr::null_mut();
    // SAFETY: plain numbers and pointers; zero is a value of each field.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    // SAFETY: every pointer leads to what is alive, and `text` is as long as said.
    let code =
        unsafe { libc::getpwuid_r(uid, &mut entry, text.as_mut_ptr(), text.len(), &mut found) };
    if code != 0 || found.is_null() {
        return None;
    }
    // SAFETY: it was found, so its name is a string in `text`.
    let name = unsafe { CStr::from_ptr(entry.pw_name) };
    name.to_str().ok().map(str::to_owned)
}

/// A user and a group of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnUser {
    uid: u32,
    gid: u32,
}

impl SubordinateIds {
    /// The one for the process `pid`, unless another process is that user.
    ///
    /// While there are no more pids than ids, no two processes are given the same. Where there are,
    /// one that lives is seen; and for one that has not become its user yet to be missed, as many
    /// processes as there are ids would have to start within the few milliseconds that this takes.
    pub fn of(&self, pid: u32) -> Option<OwnUser> {
        let nth = pid % self.users.count.min(self.groups.count);
        let user = OwnUser { uid: self.users.first + nth, gid: self.groups.first + nth };
        let taken = getpriority_user(Uid::from_raw(user.uid)).is_ok();
        (!taken).then_some(user)
    }

    /// The first of `count` that follow each other.
    ///
    /// # Errors
    /// [`Lacking::Few`].
    pub fn first_of(&self, count: u32) -> Result<OwnUser, Lacking> {
        for (file, range) in [(SUBUID, self.users), (SUBGID, self.groups)] {
            if range.count < count {
                let user = self.user.clone();
                return Err(Lacking::Few { file, user, count: range.count, needed: count });
            }
        }
        Ok(OwnUser { uid: self.users.first, gid: self.groups.first })
    }

    /// Lets the user namespace of the process `pid`, which we made and which has no user yet, have
    /// ours as its user 0, and from its user 1 on the `count` that begin with `user`.
    ///
    /// # Errors
    /// What the programs said.
    pub fn map(&self, pid: u32, user: OwnUser, count: u32) -> Result<(), Lacking> {
        let maps = [
            (&self.newuidmap, geteuid().as_raw(), user.uid),
            (&self.newgidmap, getegid().as_raw(), user.gid),
        ];
        let deadline = Instant::now() + MAPPING_TIME_MAX;
        let started = maps.map(|(program, ours, own)| {
            let child = Command::new(program)
                .args([pid, 0, ours, 1, 1, own, count].map(|number| number.to_string()))
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn();
            (program, child)
        });
        // Each is waited for, also when another one has failed.
        let ended = started.map(|(program, child)| match child {
            Ok(child) => finish(program, child, deadline),
            Err(error) => Err(refused(program, error)),
        });
        ended.into_iter().collect()
    }
}

fn finish(program: &Path, mut child: Child, deadline: Instant) -> Result<(), Lacking> {
    use std::io::Read;
    const SAID_BYTES_MAX: u64 = 512;
    let status = wait_until(&mut child, deadline);
    if matches!(status, Ok(Some(status)) if status.success()) {
        return Ok(());
    }
    // One with the rights of root is not ours to kill. It ends, or it is init's.
    let Ok(Some(status)) = status else {
        return Err(refused(program, format!("did not end in {} s", MAPPING_TIME_MAX.as_secs())));
    };
    let mut said = String::new();
    let errors = child.stderr.take();
    let _ = errors.map(|errors| errors.take(SAID_BYTES_MAX).read_to_string(&mut said));
    match said.lines().next() {
        // It names itself.
        Some(line) => Err(Lacking::Refused(line.trim().to_owned())),
        None => Err(refused(program, status)),
    }
}

fn refused(program: &Path, why: impl fmt::Display) -> Lacking {
    Lacking::Refused(format!("{}: {why}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_range_of_a_user_is_taken() {
        let file = "# comment\nann:100000:65536\nbob:165536:1000\nbob:300000:2000\n1001:400000:5000\n\
                    eve:x:65536\neve:5\neve::\neve:0:65536\nmax:4294967000:4294967295\n";
        let range = |first, count| Some(Range { first, count });
        for (user, uid, want) in [
            ("ann", 1000, range(100_000, 65536)),
            ("bob", 1001, range(400_000, 5000)),
            ("bob", 1002, range(300_000, 2000)),
            ("eve", 1003, None),
            ("max", 1004, None),
            ("an", 1005, None),
            ("", 1006, None),
        ] {
            assert_eq!(largest(file, user, uid), want, "{user} {uid}");
        }
    }

    #[test]
    fn a_user_that_a_process_has_is_given_to_no_other() {
        let own = geteuid().as_raw();
        let ids = |first| SubordinateIds {
            users: Range { first, count: 4 },
            groups: Range { first: 700_000, count: 4 },
            user: "bob".to_owned(),
            newuidmap: PathBuf::new(),
            newgidmap: PathBuf::new(),
        };
        assert_eq!(ids(own).of(8), None, "this process is that user");
        let free = ids(1_900_000_000);
        for (pid, nth) in [(8, 0), (9, 1), (15, 3)] {
            let want = OwnUser { uid: 1_900_000_000 + nth, gid: 700_000 + nth };
            assert_eq!(free.of(pid), Some(want));
        }
        assert_eq!(free.first_of(4), Ok(OwnUser { uid: 1_900_000_000, gid: 700_000 }));
        let few = free.first_of(5).expect_err("one is missing").to_string();
        assert!(few.contains("has a range of 4 ids for `bob`, and Linux images need 5"), "{few}");
    }

    #[test]
    fn each_reason_says_what_to_do() {
        let user = "bob".to_owned();
        for (why, text, hint) in [
            (
                Lacking::Range { file: SUBGID, user },
                "`/etc/subgid` has no range of at least 1024 ids for `bob`",
                "--add-subgids 100000-165535 bob",
            ),
            (Lacking::Program("newuidmap"), "there is no `newuidmap`", "apt-get install uidmap"),
        ] {
            assert!(why.to_string().contains(text) && why.hint().contains(hint), "{why}");
        }
    }
}
