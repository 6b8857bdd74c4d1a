//! What systemd is told: the protocol of sd_notify(3), and a unit.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
};

use anyhow::Context as _;

use crate::{failure::Advice, home::Home, output::notice, rights};

/// Says how this process is, to the service manager that waits for it, if there is one.
pub fn tell(state: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        let socket = socket.display();
        notice(format_args!("the service manager at `{socket}` was not told `{state}`: {error}"));
    }
}

fn send(socket: &OsStr, state: &str) -> std::io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(socket))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// A unit that runs this binary with `arguments` in this home.
pub fn unit(home: &Home, arguments: &[String]) -> anyhow::Result<String> {
    let program = env::current_exe().context("cannot tell where this program lies")?;
    let folder = env::current_dir().context("cannot tell which folder this is")?;
    let words = [path(&program)?, "up".to_owned()].into_iter().map(Ok);
    let words = words.chain(arguments.iter().map(|word| path(Path::new(word))));
    let command: Vec<String> =
        words.map(|word| Ok(in_command(&word?))).collect::<anyhow::Result<_>>()?;
    let root = rustix::process::geteuid().is_root();
    Ok(text(&Unit {
        command: command.join(" "),
        home: path(&std::path::absolute(home.path())?)?,
        folder: path(&folder)?,
        capabilities: root.then(capabilities),
    }))
}

/// A path or another word, which ends no line.
fn path(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().filter(|text| !text.contains(char::is_control)).map(str::to_owned);
    text.with_context(|| {
        let message = format!("`{}` cannot be written into a unit", path.display());
        Advice::new(message).hint("name it with letters that can be printed")
    })
}

struct Unit {
    command: String,
    home: String,
    folder: String,
    /// Of a unit of the machine; one of a user has none to give up.
    capabilities: Option<String>,
}

/// Tasks end with `margay up` and not by systemd's hand, so that they can outlive it; they are in
/// its cgroup or below it. Nothing here takes another view of the machine's file systems or another
/// list of system calls: the tasks would have that too, and a next start would not find their
/// mounts.
fn text(unit: &Unit) -> String {
    let Unit { command, home, folder, capabilities } = unit;
    let (install, enable, target) = match capabilities {
        Some(_) => ("/etc/systemd/system", "systemctl", "multi-user.target"),
        None => ("~/.config/systemd/user", "systemctl --user", "default.target"),
    };
    let mut text = format!(
        "# Write this to {install}/margay.service, and then:\n\
         # {enable} daemon-reload && {enable} enable --now margay\n"
    );
    if capabilities.is_none() {
        text += "# It starts with the machine, without a login, after: loginctl enable-linger\n";
    }
    let (home, folder) = (quoted(&format!("MARGAY_HOME={home}")), percent(folder));
    let _ = write!(
        text,
        "[Unit]\n\
         Description=margay, a platform of micro-containers\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         Environment={home}\n\
         WorkingDirectory=-{folder}\n\
         ExecStart={command}\n\
         Restart=on-failure\n\
         RestartSec=1s\n\
         TimeoutStartSec=2min\n\
         TimeoutStopSec=2min\n\
         # margay up ends its tasks, or leaves them: systemd does not.\n\
         KillMode=process\n\
         # A task that takes too much memory ends alone.\n\
         OOMPolicy=continue\n\
         Delegate=yes\n\
         TasksMax=infinity\n\
         LimitNOFILE=1048576\n\
         UMask=0077\n"
    );
    if let Some(capabilities) = capabilities {
        let _ = write!(
            text,
            "# All that margay up keeps of root; its tasks have less.\n\
             CapabilityBoundingSet={capabilities}\n"
        );
    }
    let _ = write!(text, "\n[Install]\nWantedBy={target}\n");
    text
}

fn capabilities() -> String {
    let names = rights::AGENT.iter_names().map(|(name, _)| format!("CAP_{name}"));
    names.collect::<Vec<_>>().join(" ")
}

/// A word of a command: variables stand for themselves.
fn in_command(word: &str) -> String {
    quoted(&word.replace('$', "$$"))
}

/// A word as systemd reads words: specifiers stand for themselves.
fn quoted(word: &str) -> String {
    let word = percent(word);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,%@+$".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word,
        false => format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

fn percent(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stands_for_itself_in_a_unit() {
        for (word, want) in [
            ("--listen", "--listen"),
            ("0.0.0.0", "0.0.0.0"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("50%", "50%%"),
            ("$HOME", "$$HOME"),
            ("naïve", "\"naïve\""),
        ] {
            assert_eq!(in_command(word), want, "{word}");
        }
        assert_eq!(quoted("MARGAY_HOME=/a$b"), "MARGAY_HOME=/a$b", "no variable there");
        for word in ["a\nExecStartPre=/bin/false", "a\u{85}b", "\u{1b}[2J"] {
            let error = path(Path::new(word)).expect_err(word).to_string();
            assert!(error.ends_with("cannot be written into a unit"), "{error}");
        }
    }

    #[test]
    fn a_service_manager_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("margay-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (address, socket) in [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}").into(), UnixDatagram::bind_addr(&abstract_address).unwrap()),
        ] {
            send(&address, "READY=1").unwrap();
            let mut bytes = [0; 16];
            let size = socket.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..size], b"READY=1", "{}", address.display());
        }
    }
}
