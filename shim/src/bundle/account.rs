use crate::{
    Error,
    limits::{GROUPS_MAX, ID_COUNT},
};

/// The user that a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// From the image's `/etc/passwd`.
    pub home: Option<String>,
}

/// Reads an image's USER (`name`, `uid`, `name:group`, `uid:gid`, …) by the image's own
/// `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// [`Error::User`] for names that the image does not know, and for ids outside a container's
/// user namespace.
pub(crate) fn account(user: &str, passwd: &str, group: &str) -> Result<Account, Error> {
    let wrong = |why: String| Error::User { user: user.escape_debug().to_string(), why };
    let (user_part, group_part) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let mut listed = passwd.lines().filter_map(passwd_line);
    let (uid, entry) = if user_part.bytes().all(|b| b.is_ascii_digit()) {
        let uid = number(user_part).map_err(wrong)?;
        (uid, listed.find(|entry| entry.uid == uid))
    } else {
        let entry = listed.find(|entry| entry.name == user_part);
        let entry = entry.ok_or_else(|| {
            wrong(format!("the image's /etc/passwd has no `{}`", user_part.escape_debug()))
        })?;
        (entry.uid, Some(entry))
    };
    let gid = match group_part {
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            number(text).map_err(wrong)?
        }
        Some(text) => {
            let mut groups = group.lines().filter_map(group_line);
            let found = groups.find(|entry| entry.name == text);
            found
                .ok_or_else(|| {
                    wrong(format!("the image's /etc/group has no `{}`", text.escape_debug()))
                })?
                .gid
        }
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    if uid >= ID_COUNT || gid >= ID_COUNT {
        return Err(wrong(format!("users and groups of a container are below {ID_COUNT}")));
    }
    let groups = match (&entry, group_part) {
        (Some(entry), None) => other_groups(entry.name, gid, group),
        _ => Vec::new(),
    };
    Ok(Account { uid, gid, groups, home: entry.map(|entry| entry.home.to_owned()) })
}

impl Account {
    /// Adds groups, by name or number.
    ///
    /// # Errors
    /// [`Error::Config`] for names that the image does not know, and for numbers outside a
    /// container's user namespace.
    pub(crate) fn join(&mut self, groups: &[String], group: &str) -> Result<(), Error> {
        for text in groups {
            let wrong = |why: String| Error::Config {
                what: format!("group `{}`", text.escape_debug()),
                why,
            };
            let gid = match text.bytes().all(|byte| byte.is_ascii_digit()) {
                true => number(text).map_err(wrong)?,
                false => {
                    let found = group.lines().filter_map(group_line).find(|line| line.name == text);
                    found.ok_or_else(|| wrong("the image's /etc/group has none".to_owned()))?.gid
                }
            };
            if gid >= ID_COUNT {
                return Err(wrong(format!("groups of a container are below {ID_COUNT}")));
            }
            if gid != self.gid && !self.groups.contains(&gid) && self.groups.len() < GROUPS_MAX {
                self.groups.push(gid);
            }
        }
        Ok(())
    }
}

fn other_groups(name: &str, gid: u32, group: &str) -> Vec<u32> {
    let mut groups: Vec<_> = group
        .lines()
        .filter_map(group_line)
        .filter(|entry| {
            entry.gid != gid
                && entry.gid < ID_COUNT
                && entry.members.split(',').any(|member| member == name)
        })
        .map(|entry| entry.gid)
        .take(GROUPS_MAX)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn passwd_line(line: &str) -> Option<PasswdLine<'_>> {
    let mut fields = line.split(':');
    let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
    Some(PasswdLine { name, uid: number(uid).ok()?, gid: number(gid).ok()?, home })
        .filter(|line| !line.name.is_empty())
}

fn group_line(line: &str) -> Option<GroupLine<'_>> {
    let mut fields = line.split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    let members = fields.next().unwrap_or("");
    Some(GroupLine { name, gid: number(gid).ok()?, members }).filter(|line| !line.name.is_empty())
}

/// Digits only, and 32 bits: what is larger has become 0, that is root, in other engines.
fn number(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number.ok_or_else(|| format!("`{}` is not the number of a user or group", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:33::/var/www:/bin/false\n:x:0:0::/:\nbig:x:70000:1::/:/x\n\
                          huge:x:4294967296:0::/:/x\nodd:x:9:9\n";
    const GROUP: &str =
        "root:x:0:\nwww:x:33:\nweb:x:80:www,root\nlog:x:81:www\nbroken\nfar:x:99999:www\n";

    #[test]
    fn a_user_is_what_the_image_says_and_never_root_by_accident() {
        let account_of = |user| account(user, PASSWD, GROUP);
        for (user, want) in [
            ("", (0, 0, vec![80])),
            ("0", (0, 0, vec![80])),
            ("www", (33, 33, vec![80, 81])),
            ("33", (33, 33, vec![80, 81])),
            ("33:33", (33, 33, vec![])),
            ("www:web", (33, 80, vec![])),
            ("1000", (1000, 0, vec![])),
            ("1000:1000", (1000, 1000, vec![])),
            (":7", (0, 7, vec![])),
            ("odd", (9, 9, vec![])),
        ] {
            let got = account_of(user).unwrap_or_else(|error| panic!("{user}: {error}"));
            assert_eq!((got.uid, got.gid, got.groups), want, "USER {user}");
        }
        for (user, why) in [
            ("4294967296", "not the number"),
            ("18446744073709551616", "not the number"),
            ("65536", "below 65536"),
            ("0:65536", "below 65536"),
            ("big", "below 65536"),
            ("huge", "has no `huge`"),
            ("ghost", "has no `ghost`"),
            ("www:nogroup", "/etc/group has no `nogroup`"),
            ("www:", "/etc/group has no ``"),
            ("-1", "has no `-1`"),
            ("+0", "has no `+0`"),
            ("www:33:0", "/etc/group has no `33:0`"),
        ] {
            let error = account_of(user).map(|a| format!("{a:?}")).expect_err(user).to_string();
            assert!(error.contains(why), "USER {user}: {error}");
        }
        assert_eq!(account("www", PASSWD, GROUP).unwrap().home.unwrap(), "/var/www");
    }

    #[test]
    fn a_user_joins_groups_by_name_and_number() {
        let joined = |groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            let mut account = account("33:33", PASSWD, GROUP).unwrap();
            account.join(&groups, GROUP).map(|()| account.groups).map_err(|e| e.to_string())
        };
        assert_eq!(joined(&["web", "7", "www", "80"]), Ok(vec![80, 7]));
        for (group, why) in
            [("ghost", "has none"), ("65536", "below 65536"), ("", "not the number")]
        {
            let error = joined(&[group]).expect_err(group);
            assert!(error.contains(why), "{group}: {error}");
        }
    }
}
