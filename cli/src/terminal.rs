//! This process's terminal, while a program has it.

use std::io::IsTerminal as _;

use anyhow::ensure;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::{Advice, USAGE_ERROR};

/// Rows and columns of a terminal that nothing shows.
pub const UNSEEN: (u16, u16) = (24, 80);

/// Rows and columns of the terminal that a program of `-t` gets. As with Docker it has one also
/// where this process has none, as in a job of a CI; only what is typed has to come from one.
///
/// # Errors
/// When the program is `interactive` and stdin is no terminal.
pub fn size(interactive: bool) -> anyhow::Result<(u16, u16)> {
    ensure!(
        !interactive || std::io::stdin().is_terminal(),
        Advice::new("-i and -t together need a terminal, and stdin is none")
            .hint("leave -t out to hand over stdin as it is, or -i for a terminal without input")
            .code(USAGE_ERROR)
    );
    Ok(node::terminal_size().unwrap_or(UNSEEN))
}

/// Our terminal in raw mode while a Linux program has it behind a terminal of its own, which edits
/// lines and knows what Ctrl-C means there; as before when this is dropped. A Wasm program has no
/// such thing: it reads ours as it is.
pub struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` where stdin is no terminal, or one that has gone away meanwhile.
    pub fn new() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // What was typed ahead is for the program.
        tcsetattr(&stdin, OptionalActions::Drain, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
