use std::fmt;

use crate::limits::{DEPTH_MAX, LINKS_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};

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
    /// Leads through a file of the same layer, or through more links than Linux follows.
    ThroughLink,
    /// A hard link whose target is outside of the image.
    LinkLeaves,
    /// A hard link to something that is a file neither in its layer nor below.
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
            Self::ThroughLink => {
                "its name leads through a file of the same layer, or through links in a circle"
            }
            Self::LinkLeaves => "it is a hard link that leaves the image",
            Self::LinkAbsent => {
                "it is a hard link to something that is not a file of its layer or of one below"
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

/// The name of an entry as image builders write it, made normal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EntryName {
    /// As [`normal_name`] gives it; its bytes need not be UTF-8.
    pub(crate) name: Vec<u8>,
    /// It began with `/`, which is the root of the image.
    pub(crate) absolute: bool,
    /// It had a `..`, which took back the part in front of it.
    pub(crate) parent: bool,
}

/// Reads a name as Docker does: `/` is the root of the image, empty parts and `.` say nothing, and
/// `..` takes back the part in front of it.
///
/// # Errors
/// Says what is wrong with the name, above all a `..` with nothing in front of it.
pub(crate) fn entry_name(raw: &[u8]) -> Result<EntryName, InvalidName> {
    if raw.is_empty() {
        return Err(InvalidName::Empty);
    }
    if raw.len() > PATH_BYTES_MAX {
        return Err(InvalidName::TooLong);
    }
    if raw.contains(&0) {
        return Err(InvalidName::Nul);
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut parent = false;
    for part in raw.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parent = true;
                parts.pop().ok_or(InvalidName::Parent)?;
            }
            _ if part.len() > NAME_BYTES_MAX => return Err(InvalidName::TooLong),
            _ => parts.push(part),
        }
    }
    match parts.len() > DEPTH_MAX {
        true => Err(InvalidName::TooLong),
        false => Ok(EntryName { name: parts.join(&b'/'), absolute: raw.starts_with(b"/"), parent }),
    }
}

/// `path` (normal) with the links among its folders followed, as in a chroot: `/` is the root of
/// the image, and `..` stops there. The last part is never followed. `link_at` gives the target of
/// the link at a normal path, or `None` when there is none.
///
/// # Errors
/// [`InvalidName::ThroughLink`] beyond 40 links, [`InvalidName::TooLong`] when the result is deeper
/// than names may be.
pub fn through_links(
    path: &[u8],
    mut link_at: impl FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, InvalidName> {
    let split = |text: &[u8]| -> Vec<Vec<u8>> {
        text.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect()
    };
    let (mut here, mut ahead, mut links) = (Vec::<Vec<u8>>::new(), split(path), 0);
    while let Some(part) = ahead.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                here.pop();
                continue;
            }
            _ => here.push(part),
        }
        if here.len() > DEPTH_MAX {
            return Err(InvalidName::TooLong);
        }
        if ahead.is_empty() {
            break;
        }
        if let Some(target) = link_at(&here.join(&b'/')) {
            links += 1;
            if links > LINKS_MAX {
                return Err(InvalidName::ThroughLink);
            }
            here.pop();
            if target.starts_with(b"/") {
                here.clear();
            }
            ahead.extend(split(&target));
        }
    }
    Ok(here.join(&b'/'))
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
    fn names_of_entries_are_read_as_docker_reads_them() {
        for (raw, want) in [
            (&b"a"[..], Ok("a")),
            (b"/etc/passwd", Ok("etc/passwd")),
            (b"//etc//./passwd/", Ok("etc/passwd")),
            (b"./", Ok("")),
            (b"/", Ok("")),
            (b"a/../b", Ok("b")),
            (b"a/b/../../c/.", Ok("c")),
            (b"a/..", Ok("")),
            (b"...", Ok("...")),
            (b"../a", Err(InvalidName::Parent)),
            (b"/../a", Err(InvalidName::Parent)),
            (b"a/../../b", Err(InvalidName::Parent)),
            (b"", Err(InvalidName::Empty)),
            (b"a\0b", Err(InvalidName::Nul)),
            ("a/".repeat(257).as_bytes(), Err(InvalidName::TooLong)),
            ("x".repeat(256).as_bytes(), Err(InvalidName::TooLong)),
            ("a/".repeat(2500).as_bytes(), Err(InvalidName::TooLong)),
        ] {
            let got = entry_name(raw).map(|name| String::from_utf8(name.name).unwrap());
            assert_eq!(got, want.map(str::to_owned), "{}", shown(raw));
        }
        assert_eq!(entry_name(b"/caf\xe9").unwrap().name, b"caf\xe9");
    }

    #[test]
    fn links_among_folders_are_followed_as_in_a_chroot() {
        let link_at = |path: &[u8]| -> Option<Vec<u8>> {
            let target: &[u8] = match path {
                b"lib" => b"usr/lib",
                b"abs" => b"/usr",
                b"usr/up" => b"../../../etc",
                b"loop" => b"loop",
                _ => return None,
            };
            Some(target.to_vec())
        };
        for (path, want) in [
            ("a/b", Ok("a/b")),
            ("lib", Ok("lib")),
            ("lib/x", Ok("usr/lib/x")),
            ("abs/lib/x", Ok("usr/lib/x")),
            ("abs/up/x", Ok("etc/x")),
            ("loop/x", Err(InvalidName::ThroughLink)),
        ] {
            let got = through_links(path.as_bytes(), link_at);
            assert_eq!(got, want.map(|path| path.as_bytes().to_vec()), "{path}");
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
