use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
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

use crate::{
    Error,
    storage::{Metadata, User},
};

/// Longer ones are refused before they cost anything.
pub(crate) const PASSWORD_BYTES_MAX: usize = 256;
/// Shorter ones are guessed.
const PASSWORD_BYTES_MIN: usize = 8;
/// Each check takes 19 MiB and a core for some 20 ms, on purpose; so one at a time, and so many in
/// line.
const WAITING_MAX: usize = 64;
/// Of those, from one address: the rest of its logins wait for these, and delay nobody else.
const WAITING_OF_ONE_MAX: usize = 4;
/// How long a login waits for its turn.
const TURN_TIME_MAX: Duration = Duration::from_secs(10);
/// Wrong passwords for one user from one address in a minute, before we stop looking at them.
const WRONG_MAX: u32 = 10;
const WRONG_WINDOW: Duration = Duration::from_secs(60);
/// Users and addresses that we count for at once: a guesser with more addresses than this waits for
/// argon2 instead.
const COUNTED_MAX: usize = 10_000;

/// What a hash costs to make, and with it a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// argon2id as OWASP recommends: 19 MiB, two passes.
    Recommended,
    /// As little as argon2 allows: for tests, which log in all day and guard nothing.
    Lowest,
}

/// How a login ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    Right,
    /// No such user or not their password: the same answer, after the same time.
    Wrong,
    /// Too many wrong ones lately, or too many logins at once. Ask again after this.
    Wait(Duration),
}

/// A user's name, or none for what could not be one, and where the question came from.
type Asker = (String, Option<AddressPrefix>);

/// Something that takes 19 MiB, which it is lent.
type Job = Box<dyn FnOnce(&mut Memory) + Send>;
type Memory = Vec<Block>;

/// Checks passwords, slowly for guessers.
pub(crate) struct Passwords {
    params: Params,
    /// Checked when there is no such user, so that time does not tell.
    nobody: String,
    desk: mpsc::Sender<Job>,
    of_each_address: KeyedSemaphore<AddressPrefix>,
    wrong: Mutex<HashMap<Asker, (u32, Instant)>>,
}

impl Passwords {
    pub fn new(cost: Cost) -> Self {
        let params = match cost {
            Cost::Recommended => Params::default(),
            Cost::Lowest => {
                Params::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST, None)
                    .expect("the smallest parameters are allowed")
            }
        };
        // 32 bytes that nobody knows a password for, and nobody ever will.
        let nobody =
            Output::new(super::tokens::random_name().as_bytes()).expect("32 bytes make an output");
        let nobody = written(&params, Salt::generate(), nobody);
        Self {
            params,
            nobody,
            desk: open_desk(),
            of_each_address: KeyedSemaphore::new(WAITING_OF_ONE_MAX),
            wrong: Mutex::default(),
        }
    }

    /// Does `work` for somebody at `from` when its turn comes, or not at all when that takes too
    /// long.
    async fn at_desk<T: Send + 'static>(
        &self,
        from: Option<IpAddr>,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        // Whoever has stopped waiting costs nothing any more.
        let job = Box::new(move |memory: &mut Memory| {
            if !done.is_closed() {
                done.send(work(memory)).ok();
            }
        });
        let turn = async {
            let _own = match from {
                Some(from) => Some(self.of_each_address.acquire(from.into()).await),
                None => None,
            };
            self.desk.send(job).await.ok()?;
            result.await.ok()
        };
        timeout(TURN_TIME_MAX, turn).await.ok()?
    }

    /// Sets the password of `name`, making the user if there was none.
    pub async fn set(
        &self,
        metadata: &Metadata,
        name: &Tenant,
        password: &str,
    ) -> Result<(), Error> {
        if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()) {
            return Err(Error::Name {
                message: format!(
                    "a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes"
                ),
            });
        }
        let (params, password) = (self.params.clone(), password.to_owned());
        let busy = || Error::Admin { message: "too many logins at once: try again".to_owned() };
        let hash = self
            .at_desk(None, move |memory| hash(params, &password, memory))
            .await
            .ok_or_else(busy)?;
        metadata.put_user(name, &User { password: hash }).await
    }

    /// Whether `password` is that of the user `name`, asked by somebody at `from`.
    pub async fn check(
        &self,
        metadata: &Metadata,
        name: &str,
        password: &str,
        from: Option<IpAddr>,
    ) -> Result<Login, Error> {
        // What could not be a user is counted under no name, so that a guesser cannot fill the
        // memory with names.
        let user = name.parse::<Tenant>().ok();
        let counted = (
            user.as_ref().map(ToString::to_string).unwrap_or_default(),
            from.map(AddressPrefix::from),
        );
        if let Some(wait) = self.must_wait(&counted) {
            return Ok(Login::Wait(wait));
        }
        let known = match &user {
            Some(user) => metadata.user(user).await?,
            None => None,
        };
        let exists = known.is_some();
        let hash = known.map_or_else(|| self.nobody.clone(), |user| user.password);
        let password = password.to_owned();
        let fits = password.len() <= PASSWORD_BYTES_MAX;
        let matches = self
            .at_desk(from, move |memory| fits && verify(&password, &hash, memory) == Some(true))
            .await;
        let Some(matches) = matches else { return Ok(Login::Wait(TURN_TIME_MAX)) };
        if exists && matches {
            return Ok(Login::Right);
        }
        self.count_wrong(counted);
        Ok(Login::Wrong)
    }

    fn must_wait(&self, counted: &Asker) -> Option<Duration> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, since) = wrong.get(counted)?;
        (*count >= WRONG_MAX).then(|| WRONG_WINDOW.checked_sub(since.elapsed()))?
    }

    fn count_wrong(&self, counted: Asker) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() >= COUNTED_MAX {
            wrong.retain(|_, (_, since)| since.elapsed() < WRONG_WINDOW);
        }
        if wrong.len() >= COUNTED_MAX {
            return;
        }
        let entry = wrong.entry(counted).or_insert((0, Instant::now()));
        if entry.1.elapsed() >= WRONG_WINDOW {
            *entry = (0, Instant::now());
        }
        entry.0 += 1;
    }
}

/// One thread for all checks, and one memory that it keeps: what is taken anew for each stays with
/// the allocator (measured: 99 MB after six logins, and more with more threads). It ends when
/// nobody can send to it any more.
fn open_desk() -> mpsc::Sender<Job> {
    let (desk, mut line) = mpsc::channel::<Job>(WAITING_MAX);
    std::thread::spawn(move || {
        let mut memory = Memory::new();
        while let Some(job) = line.blocking_recv() {
            job(&mut memory);
        }
    });
    desk
}

const ALGORITHM: (Algorithm, Version) = (Algorithm::Argon2id, Version::V0x13);

fn hash(params: Params, password: &str, memory: &mut Memory) -> String {
    let salt = Salt::generate();
    let output = digest(params.clone(), password, &salt, memory);
    written(&params, salt, output.expect("a short password and a random salt can be hashed"))
}

/// Whether `hash` was made of `password`, at whatever cost that was; `None` when it is no hash of
/// ours.
fn verify(password: &str, hash: &str, memory: &mut Memory) -> Option<bool> {
    let hash = PasswordHash::new(hash).ok()?;
    if hash.algorithm != ALGORITHM.0.ident() || hash.version != Some(ALGORITHM.1.into()) {
        return None;
    }
    let output = digest(Params::try_from(&hash).ok()?, password, hash.salt.as_ref()?, memory)?;
    Some(output == hash.hash?) // in constant time
}

fn digest(params: Params, password: &str, salt: &Salt, memory: &mut Memory) -> Option<Output> {
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

/// In the form of PHC strings.
fn written(params: &Params, salt: Salt, output: Output) -> String {
    let params = ParamsString::try_from(params).expect("argon2's parameters can be written");
    let (algorithm, version) = (ALGORITHM.0.ident(), Some(ALGORITHM.1.into()));
    PasswordHash { algorithm, version, params, salt: Some(salt), hash: Some(output) }.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::{future::join_all, join};
    use store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_guesser_is_stopped_and_the_user_elsewhere_is_not() {
        let metadata = Metadata::on(Arc::new(MemoryStore::new()));
        let passwords = Passwords::new(Cost::Lowest);
        passwords.set(&metadata, &"ann".parse().unwrap(), "correct horse").await.unwrap();
        assert!(passwords.set(&metadata, &"ann".parse().unwrap(), "short").await.is_err());
        let (here, there) = (Some([127, 0, 0, 1].into()), Some([127, 0, 0, 2].into()));
        let check = async |name: &str, password: &str, from| {
            passwords.check(&metadata, name, password, from).await.unwrap()
        };
        assert_eq!(check("ann", "correct horse", here).await, Login::Right);
        for guess in 0..WRONG_MAX {
            assert_eq!(check("ann", &format!("guess {guess}"), here).await, Login::Wrong);
            assert_eq!(check("nobody", &format!("guess {guess}"), there).await, Login::Wrong);
        }
        assert!(matches!(check("ann", "correct horse", here).await, Login::Wait(_)));
        assert!(matches!(check("nobody", "anything", there).await, Login::Wait(_)));
        assert_eq!(check("ann", "correct horse", there).await, Login::Right);
        for name in ["", "ANN", "ann/", &"x".repeat(1000)] {
            assert_eq!(check(name, "correct horse", here).await, Login::Wrong, "{name}");
        }
        assert_eq!(check("ann", &"x".repeat(1 << 20), there).await, Login::Wrong);
    }

    #[test]
    fn a_hash_is_verified_at_the_cost_that_it_was_made_at_and_in_used_memory() {
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
    async fn one_address_holds_up_the_logins_of_no_other() {
        let passwords = Passwords::new(Cost::Lowest);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let served = Arc::new(Mutex::new(Vec::new()));
        let login = |who: u8| {
            let served = Arc::clone(&served);
            passwords
                .at_desk(Some([10, 0, 0, who].into()), move |_| served.lock().unwrap().push(who))
        };
        let busy = passwords.at_desk(None, move |_| held.recv().unwrap_err());
        let strangers = join_all((0..100).map(|_| login(1)));
        // Polled in this order: the line forms while the desk is busy.
        let line = async { join!(busy, strangers, login(2), async { drop(release) }) };
        let (_, strangers, _, ()) = line.await;
        assert!(
            strangers.iter().all(Option::is_some),
            "they wait for each other, and all have their turn"
        );
        let served = served.lock().unwrap();
        assert_eq!(
            (served.len(), served.iter().position(|who| *who == 2)),
            (101, Some(WAITING_OF_ONE_MAX))
        );
    }
}
