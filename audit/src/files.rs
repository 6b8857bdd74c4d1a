use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The path of the file with this number.
pub(crate) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("audit-{number:08}.log"))
}

/// The numbers of the files that are there, in order.
pub(crate) fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut numbers = Vec::new();
    for entry in listed {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| {
            name.strip_prefix("audit-")?.strip_suffix(".log")?.parse::<u64>().ok()
        });
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}
