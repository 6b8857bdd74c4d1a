//! `--mount`: a mount written as keys.

use node::{MountSource, Mounted};
use shim::Tmpfs;

/// What `--mount` asks for.
#[derive(Debug, Clone)]
pub enum Mount {
    Folder(Mounted),
    Memory(Tmpfs),
}

/// Reads `type=…,source=…,target=…`.
///
/// # Errors
/// Names the key that is unknown or wrong.
pub fn mount(text: &str) -> Result<Mount, String> {
    let keys = MountKeys::read(text)?;
    let target = keys.target.ok_or("it names no target, as in target=/data")?;
    if keys.kind != "tmpfs" && !keys.tmpfs.is_empty() {
        return Err("`tmpfs-size` and `tmpfs-mode` belong to type=tmpfs".to_owned());
    }
    let source = || keys.source.filter(|source| !source.is_empty());
    match keys.kind {
        "tmpfs" => {
            if source().is_some() {
                return Err("memory has no source".to_owned());
            }
            let mut tmpfs: Tmpfs = target.parse()?;
            for option in &keys.tmpfs {
                tmpfs.set(option)?;
            }
            // As Docker has it for this form.
            (tmpfs.read_only, tmpfs.executable) = (keys.read_only, true);
            Ok(Mount::Memory(tmpfs))
        }
        "bind" => {
            let path = source().ok_or("it names no source, as in source=/srv/data")?;
            let path = std::path::absolute(path).map_err(|error| error.to_string())?;
            if !path.exists() {
                return Err(format!("there is no file or folder `{}`", path.display()));
            }
            Ok(Mount::Folder(Mounted {
                source: MountSource::Folder(path),
                path: folder(target)?,
                read_only: keys.read_only,
                bytes_max: None,
            }))
        }
        "volume" => {
            let Some(name) = source() else {
                let alone =
                    folder(target)?.parse::<Mounted>().map_err(|error| error.to_string())?;
                return Ok(Mount::Folder(Mounted { read_only: keys.read_only, ..alone }));
            };
            if name.contains('/') {
                return Err(format!("`{name}` is no name of a volume: for a folder use type=bind"));
            }
            let mount = format!("{name}:{target}{}", if keys.read_only { ":ro" } else { "" });
            let mounted = mount.parse::<Mounted>().map_err(|error| error.to_string())?;
            Ok(Mount::Folder(mounted))
        }
        kind => Err(format!("`{kind}` is no type of mount: use volume, bind or tmpfs")),
    }
}

/// The keys of `--mount`.
#[derive(Default)]
struct MountKeys<'a> {
    kind: &'a str,
    source: Option<&'a str>,
    target: Option<&'a str>,
    read_only: bool,
    tmpfs: Vec<String>,
}

impl<'a> MountKeys<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let mut keys = Self { kind: "volume", ..Self::default() };
        for field in text.split(',') {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            match key.trim() {
                "type" => keys.kind = value,
                "source" | "src" => keys.source = Some(value),
                "target" | "destination" | "dst" => keys.target = Some(value),
                "readonly" | "ro" => match value {
                    "" | "true" | "1" => keys.read_only = true,
                    "false" | "0" => keys.read_only = false,
                    _ => return Err(format!("`{key}` is true or false")),
                },
                "tmpfs-size" => keys.tmpfs.push(format!("size={value}")),
                "tmpfs-mode" => keys.tmpfs.push(format!("mode={value}")),
                // As it always is.
                "bind-propagation" if matches!(value, "private" | "rprivate") => {}
                "consistency" | "volume-nocopy" => {}
                "bind-propagation" => {
                    return Err("mounts of a task are its own: use rprivate".to_owned());
                }
                "volume-driver" | "volume-opt" | "volume-label" | "volume-subpath" => {
                    return Err(format!("`{key}` is absent here: a volume is a folder"));
                }
                _ => {
                    return Err(format!(
                        "`{key}` is no key of a mount: use type, source, target, readonly, \
                         tmpfs-size or tmpfs-mode"
                    ));
                }
            }
        }
        Ok(keys)
    }
}

/// A folder of the guest, as `-v` takes it.
fn folder(target: &str) -> Result<String, String> {
    let mounted: Mounted = format!("x:{target}").parse().map_err(|_| {
        format!("`{target}` is no folder to mount at: use an absolute path, as in /data")
    })?;
    Ok(mounted.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_by_keys_is_the_same_as_in_the_short_form() {
        let shown = |text: &str| match mount(text) {
            Ok(Mount::Folder(mounted)) => {
                let short = match &mounted.source {
                    MountSource::Volume(name) => name.to_string(),
                    MountSource::Folder(folder) => folder.display().to_string(),
                    #[allow(unreachable_patterns, reason = "more kinds may come")]
                    _ => "other".to_owned(),
                };
                format!("{short}:{}{}", mounted.path, if mounted.read_only { ":ro" } else { "" })
            }
            Ok(Mount::Memory(tmpfs)) => {
                format!("{}:{:?},{:o}", tmpfs.path, tmpfs.bytes_max, tmpfs.mode)
            }
            Err(error) => error,
        };
        for (text, want) in [
            ("source=book,target=/data", "book:/data"),
            ("type=volume,src=book,dst=/data,readonly", "book:/data:ro"),
            ("type=bind,source=/,destination=/host,ro=true", "/:/host:ro"),
            ("type=bind,src=/,target=/host,bind-propagation=rprivate", "/:/host"),
            ("type=tmpfs,target=/run,tmpfs-size=64m,tmpfs-mode=755", "/run:Some(67108864),755"),
            ("type=tmpfs,target=/run", "/run:None,1777"),
            ("type=bind,source=/no/such,target=/x", "there is no file or folder `/no/such`"),
            ("type=bind,source=/,target=x", "`x` is no folder"),
            ("type=volume,target=/data", ":/data"),
            ("type=volume,target=/data,readonly", ":/data:ro"),
            ("type=volume,target=data", "`data` is no folder"),
            ("type=volume,source=/x,target=/x", "`/x` is no name of a volume"),
            ("type=npipe,source=x,target=/x", "`npipe` is no type"),
            ("source=x", "it names no target"),
            ("type=tmpfs,target=/x,uid=1", "`uid` is no key"),
            ("source=x,target=/x,tmpfs-size=1", "belong to type=tmpfs"),
            ("source=x,target=/x,volume-driver=nfs", "a volume is a folder"),
        ] {
            assert!(shown(text).contains(want), "{text}: {}", shown(text));
        }
    }
}
