//! A guest that tries the walls of its box, one subcommand per wall. The platform's tests name the
//! limit that stops it.
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const USAGE: &str = "usage: probe-cli spin | hog [MIB] | recurse | flood [LINES] | read PATH | write PATH BYTES | \
    list PATH | env | args | exit N | clock | random [BYTES] | stdin | sleep MS | panic";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match probe(&words) {
        Ok(code) => code,
        Err(error) => {
            println!("{}: {error}", words.first().unwrap_or(&"probe"));
            ExitCode::FAILURE
        }
    }
}

fn probe(words: &[&str]) -> io::Result<ExitCode> {
    match *words {
        ["spin"] => spin(),
        ["hog"] => hog(u64::MAX),
        ["hog", mib] => hog(number(mib)?),
        ["recurse"] => println!("reached the bottom: {}", recurse(black_box(0))),
        ["flood"] => flood(u64::MAX)?,
        ["flood", lines] => flood(number(lines)?)?,
        ["read", path] => println!("read {} bytes", std::fs::read(path)?.len()),
        ["write", path, bytes] => write(path, number(bytes)?)?,
        ["list", path] => list(path)?,
        ["env"] => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        ["args", ref rest @ ..] => rest.iter().for_each(|word| println!("{word}")),
        ["exit", code] => return Ok(ExitCode::from(number(code)? as u8)),
        ["clock"] => clock(),
        ["random"] => random(16),
        ["random", bytes] => random(number(bytes)?),
        ["stdin"] => println!("read {} bytes", io::copy(&mut io::stdin().lock(), &mut io::sink())?),
        ["sleep", ms] => sleep(number(ms)?),
        ["panic"] => panic!("as asked"),
        _ => {
            eprintln!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn number(word: &str) -> io::Result<u64> {
    word.parse().map_err(|_| io::Error::other(format!("`{word}` is not a number")))
}

fn spin() {
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn hog(mib: u64) {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for count in 1..=mib {
        let mut block = Vec::new();
        if block.try_reserve_exact(1 << 20).is_err() {
            println!("refused after {} MiB", count - 1);
            return;
        }
        block.resize(1 << 20, count as u8); // touched, so it counts
        held.push(block);
    }
    println!("holding {} MiB", black_box(held).len());
}

// Not a sum, or the compiler would turn the recursion into a loop.
fn recurse(depth: u64) -> u64 {
    if depth == black_box(u64::MAX) { 0 } else { recurse(depth + 1).rotate_left(5) ^ depth }
}

fn flood(lines: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for count in 0..lines {
        writeln!(out, "{count:>12} {}", "meow ".repeat(20))?;
    }
    Ok(())
}

fn write(path: &str, bytes: u64) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let written = io::copy(&mut io::repeat(b'm').take(bytes), &mut file)?;
    println!("wrote {written} bytes");
    Ok(())
}

fn list(path: &str) -> io::Result<()> {
    let mut names =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    names.iter().for_each(|name| println!("{}", name.display()));
    Ok(())
}

fn clock() {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let begun = Instant::now();
    let turns = (0..1_000_000u64).fold(0, |sum, turn| black_box(sum ^ turn));
    println!(
        "wall {} ms, a million turns {} ns ({turns})",
        wall.as_millis(),
        begun.elapsed().as_nanos()
    );
}

// std asks the host for random bytes only to seed its maps: enough to see whether two runs differ.
fn random(bytes: u64) {
    use std::hash::{BuildHasher, RandomState};
    let state = RandomState::new();
    let digits: String =
        (0..bytes.div_ceil(8)).map(|turn| format!("{:016x}", state.hash_one(turn))).collect();
    println!("{}", &digits[..bytes as usize * 2]);
}

fn sleep(ms: u64) {
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(ms));
    println!("slept {} ms", begun.elapsed().as_millis());
}
