use super::{
    Diff, Names,
    files::{Change, Kind, Place},
};
use crate::output::size;

/// Sections with what differs; those without are left out.
pub fn told(diff: &Diff) -> Vec<String> {
    let (before, after) = (&diff.before, &diff.after);
    let mut lines = vec![
        format!("- {} ({})", before.image, before.digest),
        format!("+ {} ({})", after.image, after.digest),
    ];
    if diff.same {
        lines.push("The images are the same".to_owned());
        return lines;
    }
    let removed = diff.capabilities.removed.iter().map(|want| format!("- {want}"));
    let added = diff.capabilities.added.iter().map(|added| match &added.within {
        Some(wider) => format!("+ {} (within {wider} of before)", added.want),
        None => format!("+ {}", added.want),
    });
    section(&mut lines, "Capabilities", removed.chain(added).collect());
    section(&mut lines, "Imports", names(&diff.imports));
    section(&mut lines, "Exports", names(&diff.exports));
    let pair = |name, before: Option<String>, after: Option<String>| {
        let text =
            |value: Option<String>| value.filter(|text| !text.is_empty()).unwrap_or("-".into());
        format!("{name}: {} -> {}", text(before), text(after))
    };
    let mut settings = Vec::new();
    if before.world != after.world {
        let word = |world: Option<image::World>| world.as_ref().map(crate::verbs::word);
        settings.push(pair("world", word(before.world), word(after.world)));
    }
    if before.wasi != after.wasi {
        let word = |wasi: Option<image::Wasi>| wasi.as_ref().map(crate::verbs::word);
        settings.push(pair("wasi", word(before.wasi), word(after.wasi)));
    }
    settings.extend(diff.settings.iter().map(|setting| {
        pair(setting.name, Some(setting.before.clone()), Some(setting.after.clone()))
    }));
    section(&mut lines, "Settings", settings);
    let layer =
        |sign, layer: &super::Layer| format!("{sign} {} {}", layer.digest, size(layer.size));
    let layers = diff.layers.removed.iter().map(|one| layer('-', one));
    let layers = layers.chain(diff.layers.added.iter().map(|one| layer('+', one))).collect();
    section(&mut lines, "Layers", layers);
    section(&mut lines, "Files", diff.files.iter().map(file).collect());
    if lines.len() == 2 {
        lines.push("Only their configs and manifests differ, in nothing that runs".to_owned());
    }
    lines
}

fn section(lines: &mut Vec<String>, title: &str, entries: Vec<String>) {
    if !entries.is_empty() {
        lines.push(title.to_owned());
        lines.extend(entries.into_iter().map(|entry| format!("  {entry}")));
    }
}

fn names(names: &Names) -> Vec<String> {
    let removed = names.removed.iter().map(|name| format!("- {name}"));
    removed.chain(names.added.iter().map(|name| format!("+ {name}"))).collect()
}

fn file(change: &Change) -> String {
    let letter = match change.change {
        Kind::Added => 'A',
        Kind::Changed => 'C',
        Kind::Deleted => 'D',
    };
    let path = &change.path;
    match (&change.before, &change.after) {
        (Some(before), Some(after)) if before != after => {
            format!("{letter} {path}  {} -> {}", place(before), place(after))
        }
        (Some(place_), _) | (None, Some(place_)) => format!("{letter} {path}  {}", place(place_)),
        (None, None) => format!("{letter} {path}"),
    }
}

fn place(place: &Place) -> String {
    match place {
        Place::File { size: bytes, mode } => format!("{} {mode:04o}", size(*bytes)),
        Place::Directory { mode } => format!("directory {mode:04o}"),
        Place::Link { target } => format!("link to {target}"),
    }
}
