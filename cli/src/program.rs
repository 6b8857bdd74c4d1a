//! What the program in a local image imports and exports: read from its bytes, for
//! `margay inspect`.

use std::io::{self, Write};

use image::{Budget, FileIndex, FileIndexBuilder, FileNode, Kind, Plan, World};
use packager::Layout;
use serde::Serialize;

/// The Wasm program of an image.
#[derive(Serialize)]
pub struct Program {
    /// Its path in the image; none when it is a layer by itself.
    path: Option<String>,
    /// `component` or `module`.
    kind: &'static str,
    /// `http`, `command` or `library`.
    world: &'static str,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// Larger programs are run, and not shown.
const PROGRAM_BYTES_MAX: u64 = 256 << 20;

/// Reads every layer once, and that of the program once more. `None` for native images, for those
/// without a program, and for programs beyond measure.
pub fn of(layout: &Layout, plan: &Plan) -> anyhow::Result<Option<Program>> {
    let index = index(layout, plan)?;
    let read = |file: FileNode, bytes_max| bytes(layout, plan, file, bytes_max);
    let located = match image::locate(plan, &index, read) {
        // It is a base for others.
        Err(image::Error::NoProgram { .. }) => return Ok(None),
        located => located?,
    };
    if located.kind == Kind::Native || located.file.len > PROGRAM_BYTES_MAX {
        return Ok(None);
    }
    let program = bytes(layout, plan, located.file, located.file.len)?;
    let name = located.path.clone().unwrap_or_else(|| "the program".to_owned());
    let facts = image::inspect_wasm(&name, &program)?;
    Ok(Some(Program {
        path: located.path,
        kind: if facts.component { "component" } else { "module" },
        world: match facts.world {
            World::Http => "http",
            World::Command => "command",
            World::Library => "library",
        },
        imports: facts.imports,
        exports: facts.exports,
    }))
}

fn index(layout: &Layout, plan: &Plan) -> anyhow::Result<FileIndex> {
    let mut builder = FileIndexBuilder::new();
    for (number, layer) in plan.layers.iter().enumerate() {
        let blob = layout.open_blob(&layer.descriptor.digest)?;
        layer.read(blob, io::sink(), &mut builder, number, Budget::default())?;
    }
    Ok(builder.finish()?)
}

/// The first bytes of a file in the layers.
fn bytes(layout: &Layout, plan: &Plan, file: FileNode, bytes_max: u64) -> io::Result<Vec<u8>> {
    let layer = plan.layers.get(file.layer as usize).ok_or(io::ErrorKind::NotFound)?;
    let blob = layout.open_blob(&layer.descriptor.digest).map_err(io::Error::other)?;
    let window = Window { skip: file.offset, left: file.len.min(bytes_max), kept: Vec::new() };
    // A builder of its own, which is dropped: layer numbers and names do not matter here.
    let read = layer.read(blob, window, &mut FileIndexBuilder::new(), 0, Budget::default());
    Ok(read.map_err(io::Error::other)?.1.kept)
}

/// Keeps a part of what is written to it.
struct Window {
    skip: u64,
    left: u64,
    kept: Vec<u8>,
}

impl Write for Window {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - skipped);
        self.kept.extend_from_slice(&bytes[skipped..skipped + wanted]);
        self.skip -= skipped as u64;
        self.left -= wanted as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_keeps_its_part_however_it_arrives() {
        for piece in 1..8 {
            let mut window = Window { skip: 3, left: 4, kept: Vec::new() };
            for bytes in b"abcdefghijkl".chunks(piece) {
                window.write_all(bytes).unwrap();
            }
            assert_eq!(window.kept, b"defg", "in pieces of {piece}");
        }
    }
}
