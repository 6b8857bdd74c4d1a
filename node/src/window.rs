/// Rows and columns of the terminal of this process: on standard output, or on standard input where
/// the output goes elsewhere, as in `margay run -it IMAGE | tee log`.
pub fn terminal_size() -> Option<(u16, u16)> {
    use rustix::termios::tcgetwinsize;
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    Some((size.ws_row, size.ws_col))
}
