use crate::{
    error::Error,
    fault::Fault,
    items::Owner,
    layer::spool::Spool,
    limits::USERS_BYTES_MAX,
    stage::{Stage, StageEntry},
};

/// `--chown=user[:group]`, by name or number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    user: Id,
    group: Option<Id>,
}

#[derive(Debug, PartialEq, Eq)]
enum Id {
    Number(u32),
    Name(String),
}

impl Id {
    fn parse(text: &str) -> Self {
        match (text, text.parse::<i32>().ok().and_then(|id| u32::try_from(id).ok())) {
            ("root", _) => Self::Number(0),
            (_, Some(number)) => Self::Number(number),
            (name, None) => Self::Name(name.to_owned()),
        }
    }
}

impl Names {
    pub(super) fn parse(text: &str) -> Self {
        let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
        Self { user: Id::parse(user), group: group.map(Id::parse) }
    }

    pub(super) fn are_numbers(&self) -> bool {
        let is_number = |id: &Id| matches!(id, Id::Number(_));
        is_number(&self.user) && self.group.as_ref().is_none_or(is_number)
    }

    /// The numbers, and the names that `/etc/passwd` and `/etc/group` of `stage` do not have:
    /// root's number stands for them, as with Docker.
    pub(super) fn owner(
        &self,
        stage: &Stage,
        spool: &mut Spool<'_>,
    ) -> Result<(Owner, Vec<String>), Fault> {
        let (mut owner, mut unknown) = (Owner::default(), Vec::new());
        match &self.user {
            // A group of the same number, as with Docker.
            Id::Number(id) => owner = Owner { uid: *id, gid: *id },
            Id::Name(name) => match line_of(&text(stage, spool, "etc/passwd")?, name) {
                Some(fields) => {
                    owner = Owner { uid: number(fields.get(2)), gid: number(fields.get(3)) };
                }
                None => unknown.push(name.clone()),
            },
        }
        match &self.group {
            None => {}
            Some(Id::Number(id)) => owner.gid = *id,
            Some(Id::Name(name)) => match line_of(&text(stage, spool, "etc/group")?, name) {
                Some(fields) => owner.gid = number(fields.get(2)),
                None => unknown.push(name.clone()),
            },
        }
        Ok((owner, unknown))
    }
}

fn text(stage: &Stage, spool: &mut Spool<'_>, path: &str) -> Result<String, Fault> {
    let path = stage.resolve(path)?;
    let source = match stage.at(&path) {
        Some(StageEntry::New(_, source)) => source.clone(),
        Some(StageEntry::Base(_, file)) => stage.base.source(file),
        Some(StageEntry::Folder(_) | StageEntry::Symlink(..)) | None => return Ok(String::new()),
    };
    let bytes = spool.head(&source, USERS_BYTES_MAX).map_err(|error: Error| Fault::Error(error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The fields of the first line that begins with `name`.
fn line_of(text: &str, name: &str) -> Option<Vec<String>> {
    let lines = text.lines().map(|line| line.trim().split(':').map(str::to_owned));
    let mut lines = lines.map(Iterator::collect::<Vec<_>>);
    lines.find(|fields| fields.first().is_some_and(|first| first == name))
}

fn number(field: Option<&String>) -> u32 {
    field.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
