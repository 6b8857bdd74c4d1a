mod bases;
mod cache;
mod files;
mod images;
mod instructions;

use std::{fs, os::unix::fs::symlink};

use image::{Budget, EntryKind, LayerReader};
use tempfile::TempDir;

use super::*;
use crate::diagnostic::Diagnostic;

/// A build context and a layout, both gone at the end.
struct Workbench {
    dir: TempDir,
    layout: Layout,
}

impl Workbench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path().join("images")).unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        Self { dir, layout }
    }

    fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    /// What has just been written may change again within one tick of the clock, and is not
    /// remembered.
    fn settle(&self) {
        let settled = SystemTime::now() + Duration::from_millis(60);
        while SystemTime::now() < settled {
            std::thread::yield_now();
        }
    }

    fn build(&self) -> Result<Built, Error> {
        self.build_with(|_| {})
    }

    fn build_with(&self, change: impl FnOnce(&mut Build<'_>)) -> Result<Built, Error> {
        let context = self.context();
        let mut input = Build::of(&context, &self.layout);
        change(&mut input);
        build(&input)
    }

    fn dockerfile(&self, text: &str) -> Result<Built, Error> {
        self.put("Dockerfile", text);
        self.build()
    }

    /// Every file of every layer of an image that was built here, as `PATH=content`.
    fn files(&self, built: &Built) -> Vec<String> {
        let mut all = Vec::new();
        for layer in &built.layers {
            let blob = self.layout.open_blob(&layer.digest).unwrap();
            let mut reader = LayerReader::new(blob, Budget::default()).unwrap();
            while let Some(entry) = reader.next_entry().unwrap() {
                match entry.kind {
                    EntryKind::File => {
                        let text = String::from_utf8_lossy(&reader.read_content(10_000).unwrap())
                            .into_owned();
                        let text = if text.starts_with('\0') { "WASM".to_owned() } else { text };
                        all.push(format!("{}={text}", entry.shown_path()));
                    }
                    EntryKind::Symlink { ref target } => {
                        let target = String::from_utf8_lossy(target);
                        all.push(format!("{}->{target}", entry.shown_path()));
                    }
                    _ => {}
                }
            }
            reader.finish().unwrap();
        }
        all
    }

    /// Every file and folder of the layers of an image that was built here, as `PATH MODE`.
    fn modes(&self, built: &Built) -> Vec<String> {
        let mut all = Vec::new();
        for layer in &built.layers {
            let blob = self.layout.open_blob(&layer.digest).unwrap();
            let mut reader = LayerReader::new(blob, Budget::default()).unwrap();
            while let Some(entry) = reader.next_entry().unwrap() {
                match entry.kind {
                    EntryKind::File => all.push(format!("{} {:o}", entry.shown_path(), entry.mode)),
                    EntryKind::Directory => {
                        all.push(format!("{}/ {:o}", entry.shown_path(), entry.mode))
                    }
                    _ => {}
                }
            }
        }
        all
    }

    fn config(&self, built: &Built) -> spec::ExecutionConfig {
        self.layout.plan(&built.descriptor).unwrap().execution().clone()
    }
}

/// A command of WASI 0.1.
fn wasm() -> Vec<u8> {
    wat::parse_str(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (func (export "_start")))"#,
    )
    .unwrap()
}

fn warnings(built: &Built) -> Vec<String> {
    built.warnings.iter().map(Warning::to_string).collect()
}

fn message_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}
