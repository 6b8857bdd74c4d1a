use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStringExt as _, fs::PermissionsExt as _, fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
};

/// A Dockerfile, what lies beside it, and what is expected.
///
/// The files of this folder hold them as text: `=== NAME` begins one, `--- HEADER` a part of it. A
/// header is a path with what it is (`run.sh mode=0755`, `link -> target`, `folder/`, `pipe fifo`,
/// `old socket`, `a.tar.gz tar=gz of FOLDER`, `f.xz pack=xz of FILE`), and the lines below are its
/// content; or it is one of the words with `@` that [`Situation::read`] knows. With `escaped`, the
/// content has `\r`, `\t`, `\\`, `\xNN`, and `\c` at the end of a line for no end of line.
pub struct Situation {
    pub name: String,
    pub expected: Expected,
    parts: Vec<Part>,
    args: BTreeMap<String, String>,
    target: Option<String>,
    dockerfile: String,
}

#[derive(Default)]
pub struct Expected {
    /// `@refused TEXT`: BuildKit builds it, and here it is refused with this text and its line.
    pub refused: Option<String>,
    /// `@noted TEXT`: a note says so.
    pub noted: Option<String>,
    /// `@without PATH`: BuildKit's file that is left out here.
    pub without: Vec<String>,
    /// `@fails`: both refuse it.
    pub fails: bool,
    /// `@only-here`: BuildKit refuses it.
    pub only_here: bool,
}

struct Part {
    header: String,
    content: Vec<u8>,
}

/// A situation on disk, gone at the end.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub dockerfile: PathBuf,
    /// By name, in the order in which they are built.
    pub bases: Vec<(String, PathBuf)>,
    pub args: BTreeMap<String, String>,
    pub target: Option<String>,
}

impl Situation {
    pub fn all() -> Vec<Self> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential");
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
        files.sort();
        let texts = files.iter().map(|path| (path, fs::read_to_string(path).unwrap()));
        texts.flat_map(|(path, text)| Self::of_file(path, &text)).collect()
    }

    fn of_file(path: &Path, text: &str) -> Vec<Self> {
        let file = path.file_stem().unwrap().to_string_lossy();
        let (comment, rest) = text.split_once("=== ").expect("a situation");
        assert!(comment.lines().all(|line| line.is_empty() || line.starts_with('#')), "{file}");
        rest.split("\n=== ").map(|text| Self::read(&file, text)).collect()
    }

    fn read(file: &str, text: &str) -> Self {
        let (name, rest) = text.split_once('\n').unwrap();
        let mut situation = Self {
            name: format!("{file}: {name}"),
            expected: Expected::default(),
            parts: Vec::new(),
            args: BTreeMap::new(),
            target: None,
            dockerfile: "Dockerfile".to_owned(),
        };
        let whole = format!("\n{}\n", rest.trim_end_matches('\n'));
        for part in whole.split("\n--- ").skip(1) {
            let (header, content) = part.split_once('\n').unwrap_or((part, ""));
            let content = content.trim_end_matches('\n');
            let content = if content.is_empty() { String::new() } else { format!("{content}\n") };
            let expected = &mut situation.expected;
            match header.split_once(' ').unwrap_or((header, "")) {
                ("@refused", text) => expected.refused = Some(text.to_owned()),
                ("@noted", text) => expected.noted = Some(text.to_owned()),
                ("@without", path) => expected.without.push(path.to_owned()),
                ("@fails", _) => expected.fails = true,
                ("@only-here", _) => expected.only_here = true,
                ("@target", name) => situation.target = Some(name.to_owned()),
                ("@file", name) => situation.dockerfile = name.to_owned(),
                ("@arg", pair) => {
                    let (name, value) = pair.split_once('=').expect("NAME=value");
                    situation.args.insert(name.to_owned(), value.to_owned());
                }
                _ => {
                    let (header, content) = match header.strip_suffix(" escaped") {
                        Some(header) => (header, unescaped(&content)),
                        None => (header, content.into_bytes()),
                    };
                    situation.parts.push(Part { header: header.to_owned(), content });
                }
            }
        }
        situation
    }

    pub fn lay_out(&self) -> Bench {
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let context = dir.path().join("context");
        fs::create_dir(&context).unwrap();
        fs::set_permissions(&context, fs::Permissions::from_mode(0o755)).unwrap();
        let mut bases = Vec::new();
        for part in &self.parts {
            match part.header.strip_prefix("@base ") {
                Some(name) => {
                    let file = dir.path().join(format!("{name}.base"));
                    fs::write(&file, &part.content).unwrap();
                    bases.push((name.to_owned(), file));
                }
                None => part.put(&context),
            }
        }
        Bench {
            dockerfile: context.join(&self.dockerfile),
            dir,
            bases,
            args: self.args.clone(),
            target: self.target.clone(),
        }
    }
}

impl Part {
    fn put(&self, context: &Path) {
        let (path, what) = self.header.split_once(' ').unwrap_or((&self.header, ""));
        let path = context.join(std::ffi::OsString::from_vec(unescaped(path)));
        let make = |folder: &Path| {
            for above in folder.ancestors().collect::<Vec<_>>().into_iter().rev() {
                if !above.exists() {
                    fs::create_dir(above).unwrap();
                    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
        };
        make(path.parent().unwrap());
        let mut mode = Some(0o644);
        match what.split_whitespace().next() {
            Some("->") => {
                symlink(what.trim_start_matches("-> "), &path).unwrap();
                mode = None;
            }
            Some(tool) if tool.starts_with("tar=") || tool.starts_with("pack=") => {
                let (kind, format) = tool.split_once('=').expect("a tool");
                let source = what.split_once(" of ").expect("a source").1;
                let pack = match format {
                    "tar" => "cat",
                    "gz" => "gzip -n",
                    "bz2" => "bzip2",
                    "xz" => "xz",
                    _ => "zstd -q",
                };
                let read = match kind {
                    "tar" => format!("tar -C {source} --owner=:3 --group=:4 --mtime=@0 -c ."),
                    _ => format!("cat {source}"),
                };
                let script = format!("{read} | {pack} > {}", path.display());
                let shell = std::process::Command::new("sh");
                let status = { shell }.args(["-c", &script]).current_dir(context).status().unwrap();
                assert!(status.success(), "{script}");
            }
            Some("fifo") => {
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, 0o644.into(), 0).unwrap();
            }
            Some("socket") => drop(UnixListener::bind(&path).unwrap()),
            _ if self.header.split(' ').next().is_some_and(|path| path.ends_with('/')) => {
                make(&path);
                mode = Some(0o755);
            }
            _ => fs::write(&path, &self.content).unwrap(),
        }
        let own = what.split_whitespace().find_map(|word| word.strip_prefix("mode="));
        let own = own.map(|text| u32::from_str_radix(text, 8).unwrap());
        if let Some(mode) = own.or(mode) {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

impl Bench {
    pub fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    pub fn for_buildkit(&self) -> serde_json::Value {
        let file_name = self.dockerfile.file_name().unwrap().to_string_lossy().into_owned();
        let bases = self
            .bases
            .iter()
            .map(|(name, file)| serde_json::json!({ "name": name, "dockerfile": file }));
        serde_json::json!({
            "context": self.context(),
            "dockerfile": self.dockerfile,
            "ignore": [format!("{file_name}.dockerignore"), ".dockerignore"],
            "args": self.args,
            "target": self.target.clone().unwrap_or_default(),
            "bases": bases.collect::<Vec<_>>(),
        })
    }
}

/// Where a thousand small images are written: in memory, if there is such a place.
pub fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((before, behind)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (byte, used) = match behind.as_bytes().first() {
            Some(b'n') => (Some(b'\n'), 1),
            Some(b'r') => (Some(b'\r'), 1),
            Some(b't') => (Some(b'\t'), 1),
            Some(b'x') => (Some(u8::from_str_radix(&behind[1..3], 16).unwrap()), 3),
            Some(b'c') => (None, (behind.len() - 1).min(1) + 1),
            _ => (Some(b'\\'), 1),
        };
        bytes.extend(byte);
        rest = &behind[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
