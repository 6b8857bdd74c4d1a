use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use net::{AddressPrefix, KeyedSemaphore};
use spec::Tenant;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{budget::LoginBudget, imported, verified::VerifiedLogins};
use crate::{
    Error,
    account::{Account, robot_of},
    limits::{
        LOGIN_QUEUE_TIME_MAX, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN, QUEUED_LOGINS_MAX,
        QUEUED_LOGINS_OF_ONE_ADDRESS_MAX,
    },
    storage::{Metadata, User},
};

/// What a hash costs to make, and with it a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// argon2id as OWASP recommends: 19 MiB, two passes.
    Recommended,
    /// As little as argon2 allows: for tests, which log in all day and guard nothing.
    Lowest,
}

/// How a login ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LoginOutcome {
    Accepted(Account),
    /// No such user or not their password: the same answer, after the same time.
    Rejected,
    /// Too many failed logins lately, or too many at once.
    RetryAfter(Duration),
}

/// Why a password was not set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetPasswordError {
    #[error("a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes")]
    Length,
    #[error("this is no hash of bcrypt with a cost of {} to {}", imported::COSTS.start(), imported::COSTS.end())]
    Hash,
    #[error("too many logins at once: try again")]
    Busy,
    #[error(transparent)]
    Failed(#[from] Error),
}

/// An allocation of more than 32 MiB is a mapping of its own in every glibc
/// (`DEFAULT_MMAP_THRESHOLD_MAX`), however its threshold has moved.
const MAPPED_BYTES: usize = (32 << 20) + 1;

/// A piece of work that borrows 19 MiB of memory.
type Job = Box<dyn FnOnce(&mut Memory) + Send>;
type Memory = Vec<Block>;

/// The passwords of users: each check is slow on purpose, so guesses are limited and queued.
pub(crate) struct Passwords {
    metadata: Metadata,
    params: Params,
    /// Checked when there is no such user, so that the time of the answer does not tell.
    dummy_hash: String,
    hasher: mpsc::Sender<Job>,
    queued: KeyedSemaphore<AddressPrefix>,
    budget: LoginBudget,
    verified: VerifiedLogins,
}

impl Passwords {
    pub fn new(metadata: Metadata, cost: Cost) -> Self {
        let params = match cost {
            Cost::Recommended => Params::default(),
            Cost::Lowest => {
                Params::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST, None)
                    .expect("the smallest parameters are allowed")
            }
        };
        // 32 random bytes: no password hashes to them.
        let output =
            Output::new(disk::random_hex::<16>().as_bytes()).expect("32 bytes make an output");
        let dummy_hash = phc_string(&params, Salt::generate(), output);
        Self {
            metadata,
            params,
            dummy_hash,
            hasher: start_hasher(),
            queued: KeyedSemaphore::new(QUEUED_LOGINS_OF_ONE_ADDRESS_MAX),
            budget: LoginBudget::default(),
            verified: VerifiedLogins::new(),
        }
    }

    /// Queues `work` of a client at `from` for the hashing thread; `None` when its turn does not
    /// come in time.
    async fn hashing<T: Send + 'static>(
        &self,
        from: Option<IpAddr>,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        // A client that has stopped waiting costs no hash.
        let job = Box::new(move |memory: &mut Memory| {
            if !done.is_closed() {
                done.send(work(memory)).ok();
            }
        });
        let queued = async {
            let _permit = match from {
                Some(from) => Some(self.queued.acquire(from.into()).await),
                None => None,
            };
            self.hasher.send(job).await.ok()?;
            result.await.ok()
        };
        timeout(LOGIN_QUEUE_TIME_MAX, queued).await.ok()?
    }

    /// Sets the password of `name`, adding the user if there is none.
    pub async fn set(&self, name: &Tenant, password: &str) -> Result<(), SetPasswordError> {
        if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()) {
            return Err(SetPasswordError::Length);
        }
        let (params, password) = (self.params.clone(), password.to_owned());
        let hash = self.hashing(None, move |memory| hash(params, &password, memory)).await;
        let password = hash.ok_or(SetPasswordError::Busy)?;
        let user = User { password, serial: disk::random_hex::<8>() };
        Ok(self.metadata.put_user(name, &user).await?)
    }

    /// Sets the hash of a password that was made elsewhere.
    pub async fn import(&self, name: &Tenant, hash: &str) -> Result<(), SetPasswordError> {
        if !imported::is_hash(hash) {
            return Err(SetPasswordError::Hash);
        }
        let user = User { password: hash.to_owned(), serial: disk::random_hex::<8>() };
        Ok(self.metadata.put_user(name, &user).await?)
    }

    /// Makes the imported hash of a user one of this registry, once its password is known.
    async fn adopt(&self, name: &Tenant, serial: &str, password: String) -> Result<(), Error> {
        let params = self.params.clone();
        let hash = self.hashing(None, move |memory| hash(params, &password, memory)).await;
        let is_same = self.metadata.user(name).await?.is_some_and(|user| user.serial == serial);
        match hash.filter(|_| is_same) {
            Some(password) => {
                let user = User { password, serial: serial.to_owned() };
                self.metadata.put_user(name, &user).await
            }
            None => Ok(()),
        }
    }

    /// Whether `password` is that of `name`, a user or a robot account, for a client at `from`.
    pub async fn check(
        &self,
        name: &str,
        password: &str,
        from: Option<IpAddr>,
    ) -> Result<LoginOutcome, Error> {
        // Names that no account can have are counted as one.
        let robot = robot_of(name);
        let user = name.parse::<Tenant>().ok();
        let counted = if robot.is_some() || user.is_some() { name } else { "" };
        let admitted = timeout(LOGIN_QUEUE_TIME_MAX, self.budget.admit(counted, from)).await;
        let attempt = match admitted {
            Ok(Ok(attempt)) => attempt,
            Ok(Err(time)) => return Ok(LoginOutcome::RetryAfter(time)),
            Err(_) => return Ok(LoginOutcome::RetryAfter(LOGIN_QUEUE_TIME_MAX)),
        };
        // The secret of a robot account costs no more than this look-up.
        if robot.is_none()
            && let Some(account) = self.verified.get(name, password, Instant::now())
            && self.metadata.holder(&account).await?.is_some()
        {
            attempt.succeeded();
            return Ok(LoginOutcome::Accepted(account));
        }
        let account = match (&robot, &user) {
            (Some((user, robot)), _) => self.metadata.log_in_robot(user, robot, password).await?,
            (None, user) => match self.check_user(user.as_ref(), password, from).await? {
                Some(account) => account,
                None => {
                    attempt.abandoned();
                    return Ok(LoginOutcome::RetryAfter(LOGIN_QUEUE_TIME_MAX));
                }
            },
        };
        Ok(match account {
            Some(account) => {
                attempt.succeeded();
                if robot.is_none() {
                    self.verified.insert(name, password, &account, Instant::now());
                }
                LoginOutcome::Accepted(account)
            }
            None => LoginOutcome::Rejected,
        })
    }

    /// The account of a user with this password; `None` when the check did not come to its turn.
    /// Without such a user the same work is done.
    async fn check_user(
        &self,
        user: Option<&Tenant>,
        password: &str,
        from: Option<IpAddr>,
    ) -> Result<Option<Option<Account>>, Error> {
        let record = match user {
            Some(user) => self.metadata.user(user).await?,
            None => None,
        };
        let hash =
            record.as_ref().map_or_else(|| self.dummy_hash.clone(), |user| user.password.clone());
        let fits = password.len() <= PASSWORD_BYTES_MAX;
        let (given, stored) = (password.to_owned(), hash.clone());
        let check = move |memory: &mut Memory| match imported::is_hash(&stored) {
            true => imported::verify(&given, &stored),
            false => verify(&given, &stored, memory) == Some(true),
        };
        let matches = self.hashing(from, move |memory| fits && check(memory)).await;
        if matches == Some(true)
            && imported::is_hash(&hash)
            && let Some((user, record)) = user.zip(record.as_ref())
        {
            self.adopt(user, &record.serial, password.to_owned()).await?;
        }
        Ok(matches.map(|matches| {
            let (user, record) = user.zip(record).filter(|_| matches)?;
            Some(Account::of_user(user, &record.serial))
        }))
    }
}

/// One thread for all checks, and one memory for those that come one after the other. It goes back
/// to the system when none waits. The thread ends when its last sender is dropped.
fn start_hasher() -> mpsc::Sender<Job> {
    let (sender, mut queue) = mpsc::channel::<Job>(QUEUED_LOGINS_MAX);
    std::thread::spawn(move || {
        let mut memory = Memory::new();
        while let Some(job) = queue.blocking_recv() {
            job(&mut memory);
            if queue.is_empty() {
                memory = Memory::new();
            }
        }
    });
    sender
}

const ALGORITHM: (Algorithm, Version) = (Algorithm::Argon2id, Version::V0x13);

fn hash(params: Params, password: &str, memory: &mut Memory) -> String {
    let salt = Salt::generate();
    let output = digest(params.clone(), password, &salt, memory);
    phc_string(&params, salt, output.expect("a short password and a random salt can be hashed"))
}

/// Whether `hash` was made of `password`, at the cost that it states; `None` when it is not a hash
/// of this registry.
fn verify(password: &str, hash: &str, memory: &mut Memory) -> Option<bool> {
    let hash = PasswordHash::new(hash).ok()?;
    if hash.algorithm != ALGORITHM.0.ident() || hash.version != Some(ALGORITHM.1.into()) {
        return None;
    }
    let output = digest(Params::try_from(&hash).ok()?, password, hash.salt.as_ref()?, memory)?;
    Some(output == hash.hash?) // in constant time
}

fn digest(params: Params, password: &str, salt: &Salt, memory: &mut Memory) -> Option<Output> {
    // What is smaller stays with the allocator when it is freed (99 MB after six logins). What is
    // not written to is not there.
    memory.reserve_exact(MAPPED_BYTES.div_ceil(size_of::<Block>()).max(params.block_count()));
    memory.resize(params.block_count(), Block::default());
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    let argon2 = Argon2::new(ALGORITHM.0, ALGORITHM.1, params);
    argon2
        .hash_password_into_with_memory(
            password.as_bytes(),
            salt,
            &mut output,
            memory.as_mut_slice(),
        )
        .ok()?;
    Output::new(&output).ok()
}

fn phc_string(params: &Params, salt: Salt, output: Output) -> String {
    let params = ParamsString::try_from(params).expect("argon2's parameters can be written");
    let (algorithm, version) = (ALGORITHM.0.ident(), Some(ALGORITHM.1.into()));
    PasswordHash { algorithm, version, params, salt: Some(salt), hash: Some(output) }.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::{future::join_all, join};
    use store::MemoryStore;

    use super::*;

    fn passwords() -> Passwords {
        Passwords::new(Metadata::on(Arc::new(MemoryStore::new())), Cost::Lowest)
    }

    #[tokio::test]
    async fn an_imported_hash_is_checked_once_and_becomes_one_of_this_registry() {
        let passwords = passwords();
        let ann = "ann".parse().unwrap();
        let made = "$2y$05$Qk.8S537rLOWsqUmqBdjWOBjMazCW8i4ce/BPsXzcLYtez.ONe6M2";
        passwords.import(&ann, made).await.unwrap();
        let serial = passwords.metadata.user(&ann).await.unwrap().unwrap().serial;
        let check = async |password| passwords.check("ann", password, None).await.unwrap();
        assert_eq!(check("wrong horse").await, LoginOutcome::Rejected);
        assert_eq!(passwords.metadata.user(&ann).await.unwrap().unwrap().password, made);
        assert!(matches!(check("correct horse").await, LoginOutcome::Accepted(_)));
        let adopted = passwords.metadata.user(&ann).await.unwrap().unwrap();
        assert!(adopted.password.starts_with("$argon2id$"), "{adopted:?}");
        assert_eq!(adopted.serial, serial, "tokens hold");
        assert_eq!(check("wrong horse").await, LoginOutcome::Rejected);
        assert!(matches!(check("correct horse").await, LoginOutcome::Accepted(_)));
        for bad in ["$apr1$x$y", "$2y$31$", "plain"] {
            let refused = passwords.import(&ann, bad).await;
            assert!(matches!(refused, Err(SetPasswordError::Hash)), "{bad}");
        }
    }

    #[tokio::test]
    async fn failed_logins_block_their_address_and_no_other() {
        let passwords = passwords();
        passwords.set(&"ann".parse().unwrap(), "correct horse").await.unwrap();
        let short = passwords.set(&"ann".parse().unwrap(), "short").await;
        assert!(matches!(short, Err(SetPasswordError::Length)));
        let (here, there) = (Some([127, 0, 0, 1].into()), Some([127, 0, 0, 2].into()));
        let check = async |name: &str, password: &str, from| {
            passwords.check(name, password, from).await.unwrap()
        };
        let accepted = |outcome| matches!(outcome, LoginOutcome::Accepted(_));
        assert!(accepted(check("ann", "correct horse", here).await));
        for guess in 0..10 {
            assert_eq!(check("ann", &format!("guess {guess}"), here).await, LoginOutcome::Rejected);
            assert_eq!(
                check("eve", &format!("guess {guess}"), there).await,
                LoginOutcome::Rejected
            );
        }
        assert!(matches!(check("ann", "correct horse", here).await, LoginOutcome::RetryAfter(_)));
        assert!(matches!(check("eve", "anything", there).await, LoginOutcome::RetryAfter(_)));
        assert!(accepted(check("ann", "correct horse", there).await));
        for name in ["", "ANN", "ann/", "ann+", "+ci", &"x".repeat(1000)] {
            assert_eq!(check(name, "correct horse", here).await, LoginOutcome::Rejected, "{name}");
        }
        assert_eq!(check("ann", &"x".repeat(1 << 20), there).await, LoginOutcome::Rejected);
    }

    #[tokio::test]
    async fn many_guesses_at_one_time_are_ten_checks() {
        let passwords = passwords();
        passwords.set(&"ann".parse().unwrap(), "correct horse").await.unwrap();
        for name in ["ann", "eve", "ann+ci"] {
            let from = Some([127, 0, 0, name.len() as u8].into());
            let guesses = join_all((0..250).map(|_| passwords.check(name, "guess", from))).await;
            let checked =
                guesses.iter().filter(|guess| matches!(guess, Ok(LoginOutcome::Rejected)));
            assert_eq!(checked.count(), 10, "{name}");
        }
    }

    #[test]
    fn the_memory_of_checks_goes_back_when_none_waits() {
        let hasher = start_hasher();
        let look = |hashes: bool| {
            let (seen, capacity) = std::sync::mpsc::channel();
            let job = move |memory: &mut Memory| {
                if hashes {
                    hash(Params::default(), "correct horse", memory);
                }
                seen.send(memory.capacity() * size_of::<Block>()).unwrap();
            };
            hasher.blocking_send(Box::new(job)).unwrap();
            capacity.recv().unwrap()
        };
        assert!(look(true) >= MAPPED_BYTES, "a mapping of its own");
        let deadline = Instant::now() + Duration::from_secs(30);
        while look(false) > 0 {
            assert!(Instant::now() < deadline, "it is kept");
        }
    }

    #[test]
    fn a_hash_is_verified_at_its_own_cost_and_in_used_memory() {
        let mut memory = Memory::new();
        let cheap = Params::new(Params::MIN_M_COST, 1, 1, None).unwrap();
        let dear = Params::new(2 * Params::MIN_M_COST, 2, 1, None).unwrap();
        let hashes: Vec<_> =
            [&cheap, &dear, &cheap].map(|p| hash(p.clone(), "correct horse", &mut memory)).into();
        assert_ne!(hashes[0], hashes[2], "each has a salt of its own");
        for hash in &hashes {
            assert!(hash.starts_with("$argon2id$v=19$m="), "{hash}");
            assert_eq!(verify("correct horse", hash, &mut memory), Some(true), "{hash}");
            assert_eq!(verify("correct house", hash, &mut memory), Some(false), "{hash}");
        }
        // Made by another implementation: the `argon2` tool of its authors.
        let known =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert_eq!(verify("password", known, &mut memory), Some(true));
        for other in [
            "",
            "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
            "x",
        ] {
            assert_eq!(verify("password", other, &mut memory), None, "{other}");
        }
    }

    #[tokio::test]
    async fn logins_of_one_address_do_not_delay_those_of_another() {
        let passwords = passwords();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let served = Arc::new(Mutex::new(Vec::new()));
        let login = |host: u8| {
            let served = Arc::clone(&served);
            let from = Some([10, 0, 0, host].into());
            passwords.hashing(from, move |_| served.lock().unwrap().push(host))
        };
        let busy = passwords.hashing(None, move |_| held.recv().unwrap_err());
        let many = join_all((0..100).map(|_| login(1)));
        // Polled in this order: the queue forms while the hashing thread is busy.
        let (_, many, _, ()) = join!(busy, many, login(2), async { drop(release) });
        assert!(many.iter().all(Option::is_some), "each has its turn");
        let served = served.lock().unwrap();
        let second = served.iter().position(|host| *host == 2);
        assert_eq!((served.len(), second), (101, Some(QUEUED_LOGINS_OF_ONE_ADDRESS_MAX)));
    }
}
