use std::collections::BTreeMap;

use crate::{
    Error,
    limits::{ARG_BYTES_MAX, ARGS_BYTES_MAX},
};

/// Checks the program's name and its arguments.
pub(crate) fn check_args(args: &[String]) -> Result<(), Error> {
    let wrong = |why: &str| refused("program", why);
    match args.first().map(String::as_str) {
        None => return wrong("neither the image nor the command line names one"),
        Some("") => return wrong("its name is empty"),
        Some(_) => {}
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return wrong("an argument has a NUL byte");
    }
    if let Some((at, arg)) = args.iter().enumerate().find(|(_, arg)| arg.len() > ARG_BYTES_MAX) {
        return wrong(&too_long(&format!("argument {at}"), arg.len(), ARG_BYTES_MAX));
    }
    match args.iter().map(String::len).sum::<usize>() {
        sum if sum > ARGS_BYTES_MAX => wrong(&too_long("the command", sum, ARGS_BYTES_MAX)),
        _ => Ok(()),
    }
}

/// Checks the program's variables.
pub(crate) fn check_variables(variables: &BTreeMap<String, String>) -> Result<(), Error> {
    let wrong = |why: &str| refused("environment", why);
    for (name, value) in variables {
        let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return wrong(&format!("`{}` cannot be a variable", shown.escape_debug()));
        }
        // With the `=` between them.
        let bytes = name.len() + value.len() + 1;
        if bytes > ARG_BYTES_MAX {
            return wrong(&too_long(&format!("variable `{shown}`"), bytes, ARG_BYTES_MAX));
        }
    }
    match variables.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() {
        sum if sum > ARGS_BYTES_MAX => {
            wrong(&too_long("the variables together", sum, ARGS_BYTES_MAX))
        }
        _ => Ok(()),
    }
}

/// Of a name that may itself be what is too long.
const NAME_CHARS_SHOWN: usize = 64;

fn too_long(what: &str, bytes: usize, bytes_max: usize) -> String {
    let have = if what.ends_with("together") { "have" } else { "has" };
    format!("{what} {have} {bytes} bytes, and a program takes at most {bytes_max}: use a file")
}

fn refused(what: &str, why: &str) -> Result<(), Error> {
    Err(Error::Config { what: what.to_owned(), why: why.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(result: Result<(), Error>) -> String {
        result.err().map_or("ok".to_owned(), |error| error.to_string())
    }

    #[test]
    fn what_linux_starts_no_program_with_is_named() {
        let long = "x".repeat(ARG_BYTES_MAX + 1);
        let most = || "x".repeat(ARG_BYTES_MAX);
        for (args, want) in [
            (vec![], "names one"),
            (vec![String::new()], "its name is empty"),
            (vec!["a\0b".to_owned()], "has a NUL byte"),
            (vec!["echo".to_owned(), most()], "ok"),
            (vec!["echo".to_owned(), long.clone()], "argument 1 has 131072 bytes"),
            (vec![most(); 9], "the command has"),
        ] {
            let said = said(check_args(&args));
            assert!(said.contains(want) && said.len() < 300, "{said}, and not {want}");
        }
        for (name, value, want) in [
            ("A", "1", "ok"),
            ("", "1", "`` cannot be a variable"),
            ("A=B", "1", "`A=B` cannot be a variable"),
            ("A", "a\0b", "`A` cannot be a variable"),
            ("A", &long[3..], "ok"),
            ("A", &long[2..], "variable `A` has 131072 bytes"),
            (&long, "", "bytes"),
        ] {
            let said = said(check_variables(&BTreeMap::from([(name.into(), value.into())])));
            assert!(said.contains(want) && said.len() < 300, "{said}, and not {want}");
        }
        let many = (0..9).map(|i| (format!("V{i}"), long[5..].to_owned())).collect();
        assert!(said(check_variables(&many)).contains("the variables together have"));
    }
}
