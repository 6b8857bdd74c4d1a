use crate::items::{Item, Meta};

/// `--chmod`: `755`, or as in `u=rwx,go+rX`.
///
/// # Spec
/// POSIX.1-2017 `chmod`, "Extended Description", with a umask of 0, as in BuildKit.
pub(super) enum Chmod {
    Octal(u32),
    Symbolic(Vec<Change>),
}

/// One operator and its permissions.
pub(super) struct Change {
    operator: char,
    /// Everything that the classes of the clause may have.
    class: u32,
    permissions: u32,
    /// `g=u`: how far the permissions of the class are from the end.
    copied: Option<u32>,
    /// `X`: for folders, and for files that one class may execute.
    execute_if_executable: bool,
}

impl Chmod {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.bytes().all(|b| matches!(b, b'0'..=b'7')) {
            return u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .map(Self::Octal);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let operators = clause.find(['+', '-', '='])?;
            let (classes, mut rest) = clause.split_at(operators);
            let class = class(classes)?;
            while let Some(operator) = rest.chars().next() {
                let behind = &rest[1..];
                let end = behind.find(['+', '-', '=']).unwrap_or(behind.len());
                let (letters, next) = behind.split_at(end);
                let execute_if_executable = letters.contains('X');
                let copied = match letters {
                    "u" => Some(6),
                    "g" => Some(3),
                    "o" => Some(0),
                    _ => None,
                };
                let permissions = if copied.is_some() { 0 } else { permissions(letters)? };
                // The sticky bit belongs to no class, and others cannot ask for it.
                let sticky = if class & 0o770 != 0 { permissions & 0o1000 } else { 0 };
                let class = class | sticky;
                changes.push(Change {
                    operator,
                    class,
                    permissions,
                    copied,
                    execute_if_executable,
                });
                rest = next;
            }
        }
        Some(Self::Symbolic(changes))
    }

    /// For the folders on the way that are made besides.
    pub(super) fn of_new_folders(&self) -> Option<u32> {
        match self {
            Self::Octal(mode) => Some(mode & 0o777),
            Self::Symbolic(_) => None,
        }
    }

    pub(super) fn applied_to(&self, item: &Item, meta: Meta) -> Meta {
        Meta { mode: self.applied(meta.mode, item.is_folder()), ..meta }
    }

    fn applied(&self, before: u32, is_folder: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(changes) => changes.iter().fold(before, |mode, change| {
                // As the file was before any of the changes.
                let execute = change.execute_if_executable && (is_folder || before & 0o111 != 0);
                let execute = if execute { 0o111 } else { 0 };
                let copied = change.copied.map_or(0, |shift| (mode >> shift & 0o7) * 0o111);
                let bits = (change.permissions | copied | execute) & change.class;
                match change.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => mode & !change.class | bits,
                }
            }),
        }
    }
}

fn class(letters: &str) -> Option<u32> {
    if letters.is_empty() {
        return Some(0o6777);
    }
    letters.chars().try_fold(0, |class, letter| {
        Some(
            class
                | match letter {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o7,
                    'a' => 0o6777,
                    _ => return None,
                },
        )
    })
}

fn permissions(letters: &str) -> Option<u32> {
    letters.chars().try_fold(0, |permissions, letter| {
        Some(
            permissions
                | match letter {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    'X' => 0,
                    _ => return None,
                },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        for (text, mode, is_folder, want) in [
            ("755", 0o644, false, Some(0o755)),
            ("1777", 0o755, true, Some(0o1777)),
            ("u=rwx,go=rx", 0o600, false, Some(0o755)),
            ("+x", 0o644, false, Some(0o755)),
            ("+w", 0o444, false, Some(0o666)),
            ("a+w", 0o444, false, Some(0o666)),
            ("go-rwx", 0o755, true, Some(0o700)),
            ("a=rX", 0o644, false, Some(0o444)),
            ("a=rX", 0o755, true, Some(0o555)),
            ("u+s,o+t", 0o755, false, Some(0o4755)),
            ("+t", 0o755, true, Some(0o1755)),
            ("a-x+X", 0o755, false, Some(0o755)),
            ("u+x-w", 0o644, false, Some(0o544)),
            ("", 0, false, None),
            ("888", 0, false, None),
            ("77777", 0, false, None),
            ("00644", 0, false, Some(0o644)),
            ("g=u", 0o740, false, Some(0o770)),
            ("u", 0, false, None),
            ("z+x", 0, false, None),
            ("u+q", 0, false, None),
            ("u=rwx,", 0, false, None),
        ] {
            let got = Chmod::parse(text).map(|chmod| chmod.applied(mode, is_folder));
            assert_eq!(got, want, "{text} on {mode:o}");
        }
    }
}
