use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use spec::Tenant;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    Error,
    metadata::{Metadata, User},
    shares::{Shares, household},
};

/// Longer ones are refused before they cost anything.
pub(crate) const PASSWORD_BYTES_MAX: usize = 256;
/// Shorter ones are guessed.
const PASSWORD_BYTES_MIN: usize = 8;
/// Each check takes 19 MiB and a core for some 20 ms, on purpose; so one at a time, and so many in line.
const WAITING_MAX: usize = 64;
/// Of those, from one address: the rest of its logins wait for these, and delay nobody else.
const WAITING_OF_ONE_MAX: usize = 4;
/// How long a login waits for its turn.
const TURN_TIME_MAX: Duration = Duration::from_secs(10);
/// Wrong passwords for one user from one address in a minute, before we stop looking at them.
const WRONG_MAX: u32 = 10;
const WRONG_WINDOW: Duration = Duration::from_secs(60);
/// Users and addresses that we count for at once: a guesser with more addresses than this waits for argon2 instead.
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
type Asker = (String, Option<IpAddr>);

/// Something that takes 19 MiB.
type Job = Box<dyn FnOnce() + Send>;

/// Checks passwords, slowly for guessers.
pub(crate) struct Passwords {
    argon2: Argon2<'static>,
    /// Checked when there is no such user, so that time does not tell.
    nobody: String,
    desk: mpsc::Sender<Job>,
    shares: Shares,
    wrong: Mutex<HashMap<Asker, (u32, Instant)>>,
}

impl Passwords {
    pub fn new(cost: Cost) -> Self {
        let params = match cost {
            Cost::Recommended => Params::default(),
            Cost::Lowest => Params::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST, None)
                .expect("the smallest parameters are allowed"),
        };
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let nobody = hash(&argon2, &crate::tokens::random_name());
        Self { argon2, nobody, desk: open_desk(), shares: Shares::new(WAITING_OF_ONE_MAX), wrong: Mutex::default() }
    }

    /// Does `work` for somebody at `from` when its turn comes, or not at all when that takes too long.
    async fn at_desk<T: Send + 'static>(
        &self,
        from: Option<IpAddr>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        // Whoever has stopped waiting costs nothing any more.
        let job = Box::new(move || {
            if !done.is_closed() {
                done.send(work()).ok();
            }
        });
        let turn = async {
            let _own = match from {
                Some(from) => Some(self.shares.of(from).acquire_owned().await.ok()?),
                None => None,
            };
            self.desk.send(job).await.ok()?;
            result.await.ok()
        };
        timeout(TURN_TIME_MAX, turn).await.ok()?
    }

    /// Sets the password of `name`, making the user if there was none.
    pub async fn set(&self, metadata: &Metadata, name: &Tenant, password: &str) -> Result<(), Error> {
        if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()) {
            return Err(Error::Name {
                message: format!("a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes"),
            });
        }
        let (argon2, password) = (self.argon2.clone(), password.to_owned());
        let busy = || Error::Admin { message: "too many logins at once: try again".to_owned() };
        let hash = self.at_desk(None, move || hash(&argon2, &password)).await.ok_or_else(busy)?;
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
        // What could not be a user is counted under no name, so that a guesser cannot fill the memory with names.
        let user = name.parse::<Tenant>().ok();
        let counted = (user.as_ref().map(ToString::to_string).unwrap_or_default(), from.map(household));
        if let Some(wait) = self.must_wait(&counted) {
            return Ok(Login::Wait(wait));
        }
        let known = match &user {
            Some(user) => metadata.user(user).await?,
            None => None,
        };
        let exists = known.is_some();
        let hash = known.map_or_else(|| self.nobody.clone(), |user| user.password);
        let (argon2, password) = (self.argon2.clone(), password.to_owned());
        let fits = password.len() <= PASSWORD_BYTES_MAX;
        let matches = self
            .at_desk(from, move || {
                let parsed = PasswordHash::new(&hash);
                fits && parsed.is_ok_and(|parsed| argon2.verify_password(password.as_bytes(), &parsed).is_ok())
            })
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

/// One thread for all checks: memory that is taken on many threads stays with each of them (measured: 220 MB after some
/// hundred logins), and with this one only once. It ends when nobody can send to it any more.
fn open_desk() -> mpsc::Sender<Job> {
    let (desk, mut line) = mpsc::channel::<Job>(WAITING_MAX);
    std::thread::spawn(move || {
        while let Some(job) = line.blocking_recv() {
            job();
        }
    });
    desk
}

fn hash(argon2: &Argon2<'_>, password: &str) -> String {
    argon2.hash_password(password.as_bytes()).expect("a short password and a random salt can be hashed").to_string()
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
        let check =
            async |name: &str, password: &str, from| passwords.check(&metadata, name, password, from).await.unwrap();
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

    #[tokio::test]
    async fn one_address_holds_up_the_logins_of_no_other() {
        let passwords = Passwords::new(Cost::Lowest);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let served = Arc::new(Mutex::new(Vec::new()));
        let login = |who: u8| {
            let served = Arc::clone(&served);
            passwords.at_desk(Some([10, 0, 0, who].into()), move || served.lock().unwrap().push(who))
        };
        let busy = passwords.at_desk(None, move || held.recv().unwrap_err());
        let strangers = join_all((0..100).map(|_| login(1)));
        // Polled in this order: the line forms while the desk is busy.
        let line = async { join!(busy, strangers, login(2), async { drop(release) }) };
        let (_, strangers, _, ()) = line.await;
        assert!(strangers.iter().all(Option::is_some), "they wait for each other, and all have their turn");
        let served = served.lock().unwrap();
        assert_eq!((served.len(), served.iter().position(|who| *who == 2)), (101, Some(WAITING_OF_ONE_MAX)));
    }
}
