//! This process's terminal, while a program has it.

use std::io::IsTerminal as _;

use anyhow::ensure;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::{Advice, USAGE_ERROR};

/// Rows and columns of the terminal that `-t` needs.
///
/// # Errors
/// When stdout is no terminal.
pub fn size() -> anyhow::Result<(u16, u16)> {
    let stdout = std::io::stdout();
    ensure!(
        stdout.is_terminal(),
        Advice::new("-t needs a terminal, and stdout is none")
            .hint("leave -t out")
            .code(USAGE_ERROR)
    );
    let size = tcgetwinsize(&stdout)?;
    Ok((size.ws_row, size.ws_col))
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
