//! Says hello, and shows what a command can see: its arguments, one variable, and standard input.
//!
//! `hello [-] [--exit N] [WORD...]`: `-` as the first argument copies standard input to standard
//! output, and `--exit N` ends with that code. A 0.2 component can only say "worked" or "failed",
//! so there every N above zero may arrive as 1; the 0.1 module keeps it.
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> io::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut out = io::stdout().lock();
    writeln!(out, "hello from margay")?;
    if !words.is_empty() {
        writeln!(out, "arguments: {}", words.join(" "))?;
    }
    if let Ok(name) = std::env::var("HELLO_TO") {
        writeln!(out, "HELLO_TO: {name}")?;
    }
    if words.first().is_some_and(|word| word == "-") {
        io::copy(&mut io::stdin().lock(), &mut out)?;
    }
    out.flush()?;
    Ok(exit_code(&words))
}

fn exit_code(words: &[String]) -> ExitCode {
    let mut rest = words.iter().skip_while(|word| *word != "--exit").skip(1);
    match rest.next().map(|code| code.parse::<u8>()) {
        None => ExitCode::SUCCESS,
        Some(Ok(code)) => ExitCode::from(code),
        Some(Err(_)) => {
            eprintln!("error: `--exit` takes a number from 0 to 255");
            ExitCode::from(2)
        }
    }
}
