use rustix::process::Signal;

/// What C libraries leave of the real-time signals, as Docker numbers them.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

const NAMES: [(&str, Signal); 31] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("IOT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CHLD", Signal::CHILD),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("URG", Signal::URG),
    ("XCPU", Signal::XCPU),
    ("XFSZ", Signal::XFSZ),
    ("VTALRM", Signal::VTALARM),
    ("PROF", Signal::PROF),
    ("WINCH", Signal::WINCH),
    ("IO", Signal::IO),
    ("PWR", Signal::POWER),
    ("SYS", Signal::SYS),
];

/// The signal with this number, unless there is none or the C library keeps it for itself.
#[expect(unsafe_code, reason = "rustix knows no safe way to name a real-time signal")]
pub(crate) fn from_number(number: i32) -> Option<Signal> {
    // SAFETY: the number is one of a signal that no C library has reserved; it is only ever sent.
    let real_time =
        || REAL_TIME.contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) });
    Signal::from_named_raw(number).or_else(real_time)
}

/// The number of the signal that [`from_name`] reads.
pub fn parse_signal(text: &str) -> Option<i32> {
    from_name(text).map(Signal::as_raw)
}

/// Reads `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `SIGRTMAX-1`.
pub(crate) fn from_name(text: &str) -> Option<Signal> {
    let text = text.trim().to_ascii_uppercase();
    let digits = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<i32>().ok()).flatten()
    };
    if let Some(number) = digits(&text) {
        return from_number(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let counted =
        |rest: &str, sign| if rest.is_empty() { Some(0) } else { digits(rest.strip_prefix(sign)?) };
    let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
        REAL_TIME.start().checked_add(counted(rest, '+')?)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        REAL_TIME.end().checked_sub(counted(rest, '-')?)
    } else {
        return NAMES.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
    };
    real_time.filter(|number| REAL_TIME.contains(number)).and_then(from_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_dockerfiles_write_them() {
        for (text, want) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            (" SIGQUIT ", Some(3)),
            ("SIGPWR", Some(30)),
            ("SIGWINCH", Some(28)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("37", Some(37)),
            ("9", Some(9)),
            ("0", None),
            ("32", None),
            ("65", None),
            ("-1", None),
            ("", None),
            ("SIG", None),
            ("SIGCATS", None),
            ("SIGRTMIN-1", None),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN+x", None),
            ("SIGRTMAX-99999999999", None),
        ] {
            assert_eq!(from_name(text).map(Signal::as_raw), want, "{text}");
        }
    }
}
