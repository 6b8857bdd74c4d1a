use std::{
    fs::File,
    io::{self, BufWriter, Seek, Write},
    os::{fd::AsFd, unix::fs::FileExt},
    process::ExitCode,
};

use engine::{Slots, frame};
use image::{Budget, FileIndex, FileIndexBuilder, FileNode, LayerReader};
use spec::{Descriptor, Digest};

use super::{
    code::{self, Compiled, Unfit},
    preparation::Facts,
    task::{Answer, Job, LayerJob, NO_SPACE, ProgramJob},
};
use crate::{
    inherited::inherited,
    own_user::{self, FilesOf},
    sandbox::{self, Filter, Strictness},
    supervisor::{CONTROL_FD, EMPTY_FD},
};

/// The preparer's `main`: does the job that it finds on descriptor 3, in the sandbox. To be called
/// before the process has any thread, and never with arguments of a user.
pub fn main() -> ExitCode {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if matches!(error.kind(), StorageFull | QuotaExceeded) {
                return ExitCode::from(NO_SPACE);
            }
            let _ = writeln!(io::stderr(), "margay prepare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    sandbox::read_auxiliary_vector();
    // SAFETY: the supervisor has put it there, and nothing else in this process uses it.
    let control = unsafe { inherited(CONTROL_FD) };
    let own_user = own_user::take(&control)?;
    let (job, fds) =
        frame::receive_document::<Job>(&control)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    drop(control);
    // SAFETY: as above.
    let empty = unsafe { inherited(EMPTY_FD) };
    sandbox::leave_files(empty.as_fd())?;
    drop(empty);
    own_user.enter(FilesOf::Itself)?;
    sandbox::keep_capabilities(rustix::thread::CapabilitySet::empty())?;
    sandbox::hide()?;
    sandbox::restrict_files(None, &[])?;
    Filter::computing(Strictness::Kill)?.apply()?;
    let mut slots = Slots::from(fds);
    let mut take = |slot| slots.take(slot).map(File::from);
    let (mut index, mut code) = (take(job.index)?, take(job.code)?);
    let (mut lines, answer) = (take(job.lines)?, take(job.answer)?);
    let mut layers = Vec::new();
    for layer in &job.layers {
        layers.push((take(layer.blob)?, layer.copy.map(&mut take).transpose()?));
    }
    let blob = match &job.program {
        ProgramJob::Blob { blob, .. } => Some(take(*blob)?),
        ProgramJob::InLayers(_) => None,
    };
    let outcome = work(&job, layers, blob).map(|made| -> io::Result<Facts> {
        index.write_all(&made.index.to_bytes())?;
        code.write_all(&made.compiled.code)?;
        lines.write_all(made.compiled.lines.as_deref().unwrap_or_default())?;
        Ok(made.compiled.facts)
    });
    let answered = match outcome {
        Ok(facts) => Answer::Ready(facts?),
        Err(Unfit { code, message, hint }) => Answer::Refused { code, message, hint },
    };
    serde_json::to_writer(&answer, &answered)?;
    Ok(())
}

struct Made {
    index: FileIndex,
    compiled: Compiled,
}

fn work(
    job: &Job,
    layers: Vec<(File, Option<File>)>,
    program: Option<File>,
) -> Result<Made, Unfit> {
    let mut builder = FileIndexBuilder::new();
    let (mut diff_ids, mut tars) = (Vec::new(), Vec::new());
    let mut left = job.layer_bytes_max;
    for (layer, (blob, copy)) in job.layers.iter().zip(layers) {
        let (diff_id, tar, bytes) = read_layer(&mut builder, layer, blob, copy, left)?;
        left = left.saturating_sub(bytes);
        diff_ids.push(diff_id);
        tars.push(tar);
    }
    let index = builder.finish()?;
    let (what, wasm) = match (&job.program, program) {
        (ProgramJob::Blob { digest, size, .. }, Some(blob)) => {
            let descriptor = Descriptor {
                digest: *digest,
                size: *size,
                ..Descriptor::of("application/wasm", b"")
            };
            (format!("`{digest}`"), image::read_verified(blob, &descriptor, job.program_bytes_max)?)
        }
        (ProgramJob::InLayers(path), _) => {
            let node = index.file(path).ok_or_else(|| image::Error::NoProgram {
                why: format!("there is no file `{path}`"),
            })?;
            (format!("`{path}`"), read_file(&tars, node, job.program_bytes_max)?)
        }
        (ProgramJob::Blob { .. }, None) => {
            return Err(unfit("a program was announced and not handed over"));
        }
    };
    let mut compiled = code::compile(&what, &wasm)?;
    compiled.facts.layers = diff_ids;
    Ok(Made { index, compiled })
}

/// Reads one layer into `builder`; its diff id, its uncompressed tar, and how long that is.
fn read_layer(
    builder: &mut FileIndexBuilder,
    job: &LayerJob,
    blob: File,
    copy: Option<File>,
    bytes_max: u64,
) -> Result<(Digest, File, u64), Unfit> {
    let budget = Budget { bytes_max, ..Budget::default() };
    let (summary, tar) = match copy {
        Some(copy) => {
            let descriptor =
                Descriptor { digest: job.digest, size: job.size, ..Descriptor::of("", b"") };
            let mut verified = image::Verified::new(from_start(&blob)?, &descriptor);
            let mut reader = LayerReader::copying_to(&mut verified, BufWriter::new(copy), budget)?;
            builder.read_layer(&mut reader)?;
            let (summary, copy) = reader.finish_with_copy()?;
            // The digest is checked at the end of the blob.
            io::copy(&mut verified, &mut io::sink()).map_err(read_error)?;
            (summary, copy.into_inner().map_err(|e| read_error(e.into_error()))?)
        }
        None => {
            let mut reader = LayerReader::new(from_start(&blob)?, budget)?;
            builder.read_layer(&mut reader)?;
            (reader.finish()?, blob)
        }
    };
    match job.diff_id {
        Some(claimed) if claimed != summary.diff_id => Err(image::Error::WrongDigest {
            what: format!("layer `{}`, uncompressed,", job.digest),
            expected: claimed,
            found: summary.diff_id,
        }
        .into()),
        _ => Ok((summary.diff_id, tar, summary.bytes)),
    }
}

fn from_start(mut file: &File) -> Result<&File, Unfit> {
    file.rewind().map_err(read_error)?;
    Ok(file)
}

fn read_file(tars: &[File], node: FileNode, bytes_max: u64) -> Result<Vec<u8>, Unfit> {
    if node.len > bytes_max {
        return Err(image::Error::Budget {
            why: format!("the program has {} bytes, at most {bytes_max}", node.len),
        }
        .into());
    }
    let tar = tars
        .get(node.layer as usize)
        .ok_or_else(|| unfit("the index names a layer that is not there"))?;
    let mut bytes =
        vec![0; usize::try_from(node.len).map_err(|_| unfit("the program does not fit"))?];
    tar.read_exact_at(&mut bytes, node.offset).map_err(read_error)?;
    Ok(bytes)
}

/// An error of the image that travelled as one of reading, or a real one.
fn read_error(error: io::Error) -> Unfit {
    match error.downcast::<image::Error>() {
        Ok(error) => error.into(),
        Err(source) => image::Error::Read { what: "the image".to_owned(), source }.into(),
    }
}

fn unfit(why: &str) -> Unfit {
    image::Error::NoProgram { why: why.to_owned() }.into()
}
