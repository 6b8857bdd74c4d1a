use std::{
    fs::File,
    io::{BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _},
};

use anyhow::{Context as _, bail, ensure};
use registry::RegistryLogin;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::{
    authorities,
    credentials::{Credentials, Login},
    failure::{Advice, USAGE_ERROR},
    home::Home,
    output::{line, notice},
    platform::record::{Record, is_registry},
    transfer,
};

/// Log in to a registry
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The password is asked for on the terminal. For the user that `margay up` of the same home has
made, it is read from the home.

Examples:
  margay login -u me localhost:5000
  pass show registry | margay login -u me --password-stdin registry.example.com"
)]
pub struct Args {
    /// Host and port of the registry, as images name it
    #[arg(value_name = "REGISTRY", default_value = "docker.io", value_parser = transfer::registry_name)]
    registry: String,
    /// The user name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// With what; visible to other users of this machine while it runs
    #[arg(short, long, value_name = "PASSWORD")]
    password: Option<String>,
    /// Read the password from stdin
    #[arg(long, conflicts_with = "password")]
    password_stdin: bool,
    #[command(flatten)]
    remote: transfer::Remote,
}

/// Longer than any password, so that a wrong pipe ends.
const PASSWORD_BYTES_MAX: u64 = 4096;

impl Args {
    /// Asks the registry, and keeps what it accepted.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let user = match &self.username {
            Some(user) => user.clone(),
            None if self.password.is_some() || self.password_stdin => bail!(
                Advice::new("a password is given, and no user name")
                    .hint(format!("name the user too: margay login -u NAME {}", self.registry))
                    .code(USAGE_ERROR)
            ),
            None => ask("Username: ")?,
        };
        let password = self.password(home, &user)?;
        let login = Login { user, password };
        let client = transfer::client_with(home, &self.remote, &self.registry, Some(&login))?;
        super::block_on(client.check(&self.registry))?;
        if let Some(path) = &self.remote.ca {
            authorities::keep(home, &self.registry, &authorities::text(path)?)?;
        }
        Credentials::read(home)?.keep(&self.registry, login)?;
        line(format_args!("Login Succeeded"));
        Ok(())
    }

    fn password(&self, home: &Home, user: &str) -> anyhow::Result<String> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        if self.password_stdin {
            return read_password(&mut std::io::stdin().lock());
        }
        if let Some(password) = own_password(home, &self.registry, user)? {
            notice(format_args!("Using the password that `margay up` made for `{user}`."));
            return Ok(password);
        }
        ask_silently("Password: ")
    }
}

/// A password that is chosen now: from stdin, or typed twice.
pub fn new_password(from_stdin: bool) -> anyhow::Result<String> {
    if from_stdin {
        return read_password(&mut std::io::stdin().lock());
    }
    let password = ask_silently("New password: ")?;
    ensure!(ask_silently("Again: ")? == password, "the two passwords differ");
    Ok(password)
}

/// The password of the user that `margay up` of this home made for its registry. A user that can
/// read it owns it.
fn own_password(home: &Home, registry: &str, user: &str) -> anyhow::Result<Option<String>> {
    let Some(record) = Record::read(home)? else { return Ok(None) };
    if record.user != user || !is_registry(record.registry, registry) {
        return Ok(None);
    }
    let path = crate::platform::password_file(home);
    match disk::open_plain(&path) {
        Ok(mut file) => read_password(&mut file).map(Some),
        Err(_) => Ok(None),
    }
}

fn read_password(from: &mut dyn std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(PASSWORD_BYTES_MAX).read_to_string(&mut text).context("cannot read the password")?;
    let password = text.trim_end_matches(['\n', '\r']);
    ensure!(!password.is_empty(), Advice::new("the password is empty").code(USAGE_ERROR));
    Ok(password.to_owned())
}

/// As which user another registry is asked, with the password from stdin.
pub fn of_other_registry(username: String) -> anyhow::Result<RegistryLogin> {
    let password = read_password(&mut std::io::stdin().lock())?;
    Ok(RegistryLogin { username, password })
}

fn ask(question: &str) -> anyhow::Result<String> {
    let mut terminal = terminal()?;
    write!(terminal, "{question}")?;
    let mut answer = String::new();
    BufReader::new(&mut terminal).take(PASSWORD_BYTES_MAX).read_line(&mut answer)?;
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}

pub fn ask_silently(question: &str) -> anyhow::Result<String> {
    let before = tcgetattr(terminal()?)?;
    let mut silent = before.clone();
    // Ctrl-C is a key like any other meanwhile: as a signal it would end us with the echo off.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    tcsetattr(terminal()?, OptionalActions::Flush, &silent)?;
    let typed = terminal().and_then(|mut terminal| {
        write!(terminal, "{question}")?;
        Ok(typed(BufReader::new(terminal).take(PASSWORD_BYTES_MAX).bytes().map_while(Result::ok)))
    });
    tcsetattr(terminal()?, OptionalActions::Flush, &before)?;
    notice(format_args!(""));
    typed?.ok_or_else(|| Advice::new("interrupted").code(INTERRUPTED).into())
}

/// What a shell shows for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// A line as it is typed without the terminal's help, with the keys that correct it; `None` after
/// Ctrl-C.
fn typed(keys: impl Iterator<Item = u8>) -> Option<String> {
    let mut line = Vec::new();
    for key in keys {
        match key {
            b'\n' | b'\r' => break,
            CTRL_C | CTRL_BACKSLASH => return None,
            CTRL_D if line.is_empty() => break,
            CTRL_U => line.clear(),
            BACKSPACE | DELETE => {
                // A character may have several bytes: all but its first one look like this.
                while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            key => line.push(key),
        }
    }
    Some(String::from_utf8_lossy(&line).into_owned())
}

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: u8 = 8;
const CTRL_U: u8 = 21;
const CTRL_BACKSLASH: u8 = 28;
const DELETE: u8 = 127;

/// The terminal itself: stdin may be something else.
fn terminal() -> anyhow::Result<File> {
    if (std::io::stdin().is_terminal() || std::io::stderr().is_terminal())
        && let Ok(terminal) = File::options().read(true).write(true).open("/dev/tty")
    {
        return Ok(terminal);
    }
    bail!(
        Advice::new("there is no terminal to ask for a user name or password")
            .hint("pass the password with --password-stdin < FILE, and the name of a login with -u NAME")
            .code(USAGE_ERROR)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_what_is_left_of_the_keys_and_ctrl_c_ends_it() {
        for (keys, want) in [
            (&b"secret\nmore"[..], Some("secret")),
            (b"secrex\x7ft\r", Some("secret")),
            ("gr\u{fc}\x08ue\n".as_bytes(), Some("grue")),
            (b"\x7fwrong\x15right\n", Some("right")),
            (b"sec\x03", None),
            (b"\x04", Some("")),
            (b"cut off", Some("cut off")),
        ] {
            assert_eq!(typed(keys.iter().copied()).as_deref(), want, "{keys:?}");
        }
    }
}
