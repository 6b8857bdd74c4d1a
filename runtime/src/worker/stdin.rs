use tokio::io::AsyncRead;
use wasmtime_wasi::{
    cli::{IsTerminal, StdinStream},
    p2::{InputStream, pipe::ClosedInputStream},
};

/// What a guest reads: descriptor 0 as it was handed over, or nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    pub open: bool,
    pub terminal: bool,
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.open && self.terminal
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        match self.open {
            true => std::io::stdin().async_stream(),
            false => Box::new(tokio::io::empty()),
        }
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        match self.open {
            true => std::io::stdin().p2_stream(),
            false => Box::new(ClosedInputStream),
        }
    }
}
