use spec::Frame;

use super::Output;

/// Lines that are there already travel together, as far as this.
const TOGETHER_BYTES: usize = 16 << 10;

/// Frames for a client, from a thread that may wait for it.
pub(super) struct Batch<'a> {
    output: &'a Output,
    frames: Vec<u8>,
}

impl<'a> Batch<'a> {
    pub fn to(output: &'a Output) -> Self {
        Self { output, frames: Vec::new() }
    }

    /// False when the client is gone.
    pub fn push(&mut self, frame: &Frame) -> bool {
        self.frames.extend_from_slice(&frame.encode());
        self.frames.len() < TOGETHER_BYTES || self.flush()
    }

    /// False when the client is gone.
    pub fn flush(&mut self) -> bool {
        match self.frames.is_empty() {
            true => !self.output.0.is_closed(),
            false => self.output.0.send_whole_blocking(std::mem::take(&mut self.frames)).is_ok(),
        }
    }
}
