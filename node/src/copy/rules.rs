//! Where a copy goes: Docker's rules, decided from what is at both ends.

/// A path as it was given, in the parts that the rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    /// Absolute and lexically clean in a container; as given on this machine.
    pub path: String,
    /// The last name of it; nothing for a root folder.
    pub name: String,
    /// It ends with `/.`: the content of a folder is meant.
    pub content: bool,
    /// It ends with `/` or `/.`: a folder is meant, and a link to one is followed.
    pub folder: bool,
}

impl Given {
    /// A path in a container: relative ones begin at its root.
    pub fn inside(text: &str) -> Self {
        let mut parts: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let name = parts.last().map_or(String::new(), |name| (*name).to_owned());
        let content = is_content(text) || name.is_empty();
        let folder = content || text.ends_with('/');
        Self { path: format!("/{}", parts.join("/")), name, content, folder }
    }

    /// A path on this machine.
    pub fn outside(text: &str) -> Self {
        let content = is_content(text);
        let trimmed = text.strip_suffix("/.").unwrap_or(text).trim_end_matches('/');
        let name = trimmed.rsplit('/').next().unwrap_or("");
        let name = if matches!(name, "." | "..") { "" } else { name };
        let folder = content || text.ends_with('/') || name.is_empty();
        // Of `..` the content is meant: it has no name that a copy could have.
        let content = content || name.is_empty();
        Self { path: text.to_owned(), name: name.to_owned(), content, folder }
    }

    /// The folder that it is in.
    pub fn parent(&self) -> String {
        let trimmed = self.path.strip_suffix("/.").unwrap_or(&self.path).trim_end_matches('/');
        match trimmed.rsplit_once('/') {
            Some(("", _)) => "/".to_owned(),
            Some((parent, _)) => parent.to_owned(),
            None => ".".to_owned(),
        }
    }
}

fn is_content(text: &str) -> bool {
    text == "." || text.ends_with("/.")
}

/// What is at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum There {
    Nothing,
    Folder,
    File,
}

/// Where the archive is unpacked, and the name of its first entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub folder: String,
    /// Nothing for the content of a folder.
    pub name: String,
}

/// Where a copy of `from` to `to` goes.
///
/// # Errors
/// Why there is no such place, in Docker's words.
pub(crate) fn target(
    from: &Given,
    from_is_folder: bool,
    to: &Given,
    there: There,
) -> Result<Target, String> {
    let beside = || Target { folder: to.parent(), name: to.name.clone() };
    let shown = &to.path;
    match there {
        There::Folder => {
            let name = if from.content { String::new() } else { from.name.clone() };
            Ok(Target { folder: to.path.clone(), name })
        }
        There::File if from_is_folder => {
            Err(format!("cannot copy a folder onto `{shown}`, which is a file"))
        }
        There::File if to.folder => Err(format!("`{shown}` is not a folder")),
        There::File => Ok(beside()),
        There::Nothing if from_is_folder => Ok(beside()),
        There::Nothing if to.folder => Err(format!("there is no such folder `{shown}`")),
        There::Nothing => Ok(beside()),
    }
}

/// Where a link at `path` of a container leads to.
pub(crate) fn follow(path: &Given, target: &str) -> Given {
    let followed = match target.starts_with('/') {
        true => target.to_owned(),
        false => format!("{}/{target}", path.parent()),
    };
    Given { folder: path.folder, ..Given::inside(&followed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_docker_reads_them() {
        for (text, path, name, content, folder) in [
            ("/a/b", "/a/b", "b", false, false),
            ("a", "/a", "a", false, false),
            ("/a/", "/a", "a", false, true),
            ("/a/.", "/a", "a", true, true),
            ("/a/../../b//c", "/b/c", "c", false, false),
            ("/", "/", "", true, true),
            ("/.", "/", "", true, true),
            ("/..", "/", "", true, true),
        ] {
            let (path, name) = (path.to_owned(), name.to_owned());
            assert_eq!(Given::inside(text), Given { path, name, content, folder }, "{text}");
        }
        for (text, name, content, folder, parent) in [
            ("a", "a", false, false, "."),
            ("./a/b", "b", false, false, "./a"),
            ("/a", "a", false, false, "/"),
            ("a/", "a", false, true, "."),
            ("a/.", "a", true, true, "."),
            (".", "", true, true, "."),
            ("..", "", true, true, "."),
            ("/", "", true, true, "."),
        ] {
            let given = Given::outside(text);
            let got = (given.name.as_str(), given.content, given.folder, &*given.parent());
            assert_eq!(got, (name, content, folder, parent), "{text}");
        }
    }

    #[test]
    fn a_copy_goes_where_docker_puts_it() {
        use There::{File, Folder, Nothing};
        for (from, is_folder, to, there, want) in [
            ("/f", false, "d", Folder, Ok(("d", "f"))),
            ("/f", false, "d/", Folder, Ok(("d/", "f"))),
            ("/f", false, "x", Nothing, Ok((".", "x"))),
            ("/f", false, "a/x", File, Ok(("a", "x"))),
            ("/f", false, "x/", Nothing, Err("no such folder `x/`")),
            ("/f", false, "x/", File, Err("`x/` is not a folder")),
            ("/s", true, "d", Folder, Ok(("d", "s"))),
            ("/s/.", true, "d", Folder, Ok(("d", ""))),
            ("/", true, "d", Folder, Ok(("d", ""))),
            ("/s", true, "x", Nothing, Ok((".", "x"))),
            ("/s/.", true, "a/x/", Nothing, Ok(("a", "x"))),
            ("/s", true, "x", File, Err("onto `x`, which is a file")),
        ] {
            let got = target(&Given::inside(from), is_folder, &Given::outside(to), there);
            match (got, want) {
                (Ok(got), Ok((folder, name))) => {
                    assert_eq!((&*got.folder, &*got.name), (folder, name), "{from} {to}");
                }
                (Err(got), Err(want)) => assert!(got.contains(want), "{from} {to}: {got}"),
                (got, want) => panic!("{from} {to}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn a_link_in_a_container_leads_to_a_path_of_the_container() {
        for (path, target, want) in [
            ("/a/l", "b", "/a/b"),
            ("/a/l", "/b", "/b"),
            ("/a/l", "../../../etc", "/etc"),
            ("/l", "b", "/b"),
        ] {
            assert_eq!(follow(&Given::inside(path), target).path, want, "{path} -> {target}");
        }
    }
}
