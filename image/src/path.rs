use std::fmt;

use crate::limits::{DEPTH_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};

/// Why a name in a layer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidName {
    /// Nothing there.
    Empty,
    /// Starts with `/`.
    Absolute,
    /// Has a `..` component.
    Parent,
    /// Has a `.` component after the first, or an empty one.
    NotNormal,
    /// Has a NUL byte.
    Nul,
    /// Is not UTF-8.
    NotUtf8,
    /// Longer than Linux takes, or deeper than 256 folders.
    TooLong,
    /// `.wh.` with nothing, `.` or `..` behind it.
    Whiteout,
    /// Leads through something in the same layer that is not a folder.
    ThroughLink,
    /// A link whose target is outside of the image.
    LinkLeaves,
    /// A hard link to something that is not a file in the same layer, further up.
    LinkAbsent,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "its name is empty",
            Self::Absolute => "its name is absolute, and names in a layer are relative",
            Self::Parent => "its name has a `..`, which could leave the image",
            Self::NotNormal => "its name has a `.` or an empty part",
            Self::Nul => "its name has a NUL byte",
            Self::NotUtf8 => "its name is not UTF-8",
            Self::TooLong => {
                "its name is longer than 4096 bytes, has a part longer than 255, or \
                is more than 256 deep"
            }
            Self::Whiteout => "it is a whiteout that names nothing",
            Self::ThroughLink => "its name leads through a link or a file of the same layer",
            Self::LinkLeaves => "it is a link that leaves the image",
            Self::LinkAbsent => {
                "it is a hard link to something that is not a file of the same layer"
            }
        })
    }
}

/// The normal form of a name in a layer: relative, parts joined by one `/`, nothing at the ends;
/// empty for the root. A `./` in front and a `/` at the end are what tar writers add, and are
/// dropped.
///
/// # Errors
/// Says what is wrong with the name.
pub fn normal_name(raw: &[u8]) -> Result<&str, InvalidName> {
    if raw.is_empty() {
        return Err(InvalidName::Empty);
    }
    if raw.len() > PATH_BYTES_MAX {
        return Err(InvalidName::TooLong);
    }
    if raw.contains(&0) {
        return Err(InvalidName::Nul);
    }
    let text = str::from_utf8(raw).map_err(|_| InvalidName::NotUtf8)?;
    if text.starts_with('/') {
        return Err(InvalidName::Absolute);
    }
    let text = text.strip_prefix("./").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() || text == "." {
        return Ok("");
    }
    let mut depth = 0;
    for part in text.split('/') {
        depth += 1;
        match part {
            ".." => return Err(InvalidName::Parent),
            "." | "" => return Err(InvalidName::NotNormal),
            _ if part.len() > NAME_BYTES_MAX || depth > DEPTH_MAX => {
                return Err(InvalidName::TooLong);
            }
            _ => {}
        }
    }
    Ok(text)
}

/// Whether a symbolic link at `path` to `target` would climb above the root, judged by the names
/// alone.
pub fn link_leaves(path: &str, target: &str) -> bool {
    if target.starts_with('/') {
        // The root of the image is the root that the program sees.
        return climbs(0, target);
    }
    climbs(path.matches('/').count(), target)
}

fn climbs(mut depth: usize, target: &str) -> bool {
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// `raw` for an error message: printable, and at most 100 characters.
pub(crate) fn shown(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(&raw[..raw.len().min(400)]);
    let mut shown: String = text.chars().flat_map(char::escape_debug).take(100).collect();
    if text.chars().count() > 100 || raw.len() > 400 {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_or_refused() {
        let deep = "a/".repeat(257);
        let long = "x".repeat(256);
        let longer = "a/".repeat(2500);
        for (raw, want) in [
            (&b"a"[..], Ok("a")),
            (b"a/b/c", Ok("a/b/c")),
            (b"./a", Ok("a")),
            (b"a/", Ok("a")),
            (b"./", Ok("")),
            (b".", Ok("")),
            (b"...", Ok("...")),
            (b"", Err(InvalidName::Empty)),
            (b"/", Err(InvalidName::Absolute)),
            (b"/etc/passwd", Err(InvalidName::Absolute)),
            (b"../../etc/x", Err(InvalidName::Parent)),
            (b"a/../../b", Err(InvalidName::Parent)),
            (b"a/..", Err(InvalidName::Parent)),
            (b".//etc", Err(InvalidName::NotNormal)),
            (b"././a", Err(InvalidName::NotNormal)),
            (b"a//b", Err(InvalidName::NotNormal)),
            (b"a/./b", Err(InvalidName::NotNormal)),
            (b"a//", Err(InvalidName::NotNormal)),
            (b"a\0b", Err(InvalidName::Nul)),
            (b"a\xffb", Err(InvalidName::NotUtf8)),
            (deep.as_bytes(), Err(InvalidName::TooLong)),
            (long.as_bytes(), Err(InvalidName::TooLong)),
            (longer.as_bytes(), Err(InvalidName::TooLong)),
        ] {
            assert_eq!(normal_name(raw), want, "{}", shown(raw));
        }
    }

    #[test]
    fn a_link_that_climbs_above_the_root_leaves() {
        for (path, target, leaves) in [
            ("a", "b", false),
            ("a", "../b", true),
            ("d/a", "../b", false),
            ("d/a", "../../etc/passwd", true),
            ("d/a", "/etc/passwd", false),
            ("d/a", "/../etc/passwd", true),
            ("usr/lib/x", "../../lib/./y", false),
        ] {
            assert_eq!(link_leaves(path, target), leaves, "{path} -> {target}");
        }
    }
}
