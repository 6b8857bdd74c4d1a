use std::{
    fs, io,
    os::unix::fs::{MetadataExt, lchown},
    path::Path,
};

/// Gives `folder` and what its owner has in it to the user `id`, once: in a folder that is this
/// user's, root must follow nothing that the user has arranged, and gives it the files that root
/// itself has made there since, a key for example. A home folder of an earlier version, whose
/// servers were root, comes here.
pub(crate) fn take_over(folder: &Path, id: u32) -> io::Result<()> {
    let before = fs::symlink_metadata(folder)?;
    if before.uid() == id {
        return take_files(folder, id);
    }
    take_below(folder, &before, id)?;
    // Last, so that one that was interrupted begins anew.
    lchown(folder, Some(id), Some(id))
}

fn take_files(folder: &Path, id: u32) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = fs::symlink_metadata(&path)?;
        if found.is_file() && found.uid() == 0 && found.nlink() == 1 {
            lchown(&path, Some(id), Some(id))?;
        }
    }
    Ok(())
}

fn take_below(folder: &Path, top: &fs::Metadata, id: u32) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = fs::symlink_metadata(&path)?;
        if found.dev() != top.dev() {
            continue;
        }
        if found.is_dir() {
            take_below(&path, top, id)?;
        }
        // A file with two names may be one that lies elsewhere.
        let is_own = found.uid() == top.uid() && (found.is_dir() || found.nlink() == 1);
        if is_own || found.uid() == id {
            lchown(&path, Some(id), Some(id))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_over_once_and_links_out_of_it_are_not_followed() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: giving files away takes root");
            return;
        }
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        fs::create_dir_all(path("data/blobs")).unwrap();
        for file in ["outside", "linked", "data/store.db", "data/blobs/b"] {
            fs::write(path(file), "").unwrap();
        }
        std::os::unix::fs::symlink(path("outside"), path("data/link")).unwrap();
        fs::hard_link(path("linked"), path("data/linked")).unwrap();
        let owner = |name: &str| fs::symlink_metadata(path(name)).unwrap().uid();
        take_over(&path("data"), 4242).unwrap();
        for (name, want) in [
            ("data", 4242),
            ("data/store.db", 4242),
            ("data/blobs/b", 4242),
            ("data/link", 4242),
            ("outside", 0),
            ("linked", 0),
        ] {
            assert_eq!(owner(name), want, "{name}");
        }
        fs::create_dir(path("data/later")).unwrap();
        fs::write(path("data/later/below"), "").unwrap();
        fs::write(path("data/key"), "").unwrap();
        take_over(&path("data"), 4242).unwrap();
        for (name, want) in
            [("data/key", 4242), ("data/later", 0), ("data/later/below", 0), ("linked", 0)]
        {
            assert_eq!(owner(name), want, "{name}");
        }
    }
}
