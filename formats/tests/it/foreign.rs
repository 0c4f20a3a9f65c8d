//! Images that nobody here made, held against qemu-img: every file of the folder that
//! `VELLUM_FOREIGN` names is read in the format that its signature tells, and must be what
//! `qemu-img convert` makes of it, or be refused in words. Compressed files (gz, bz2) are unpacked
//! with the system's tools first.
//!
//! Without the variable there is nothing to do: the folder is no part of the project.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::codecs::Codecs;
use crate::disk::first_difference;
use crate::files::{Beside, OpenFile, open};
use crate::qemu;
use vellum_core::source::{ExtentKind, ImageSource, ReadAt, SourceError};
use vellum_formats::Format;
use vellum_formats::machine::MachineDescription;
use vellum_formats::probe::{FormatVerdict, probe_file};

const PIECE_LEN: u64 = 1 << 20;

/// Copies the folder's files to `to`, unpacked.
fn unpack(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        let stem = to.join(path.file_stem().expect("a name"));
        let program = match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => "gzip",
            Some("bz2") => "bzip2",
            _ => {
                let target = to.join(path.file_name().expect("a name"));
                fs::copy(&path, target).expect("copied");
                continue;
            }
        };
        let mut unpacker = Command::new(program);
        unpacker
            .arg("-dc")
            .arg(&path)
            .stdout(File::create(stem).expect("made"));
        assert!(
            unpacker.status().expect("it runs").success(),
            "{}",
            path.display()
        );
    }
}

/// The image as qemu-img has it, or what it says instead.
fn by_qemu(path: &Path, format: Format, target: &Path) -> Result<OpenFile, String> {
    let name = if format == Format::Vhd {
        "vpc"
    } else {
        format.format_name()
    };
    let mut command = Command::new("qemu-img");
    command
        .args(["convert", "-f", name, "-O", "raw"])
        .arg(path)
        .arg(target);
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("qemu-img runs");
    if output.status.success() {
        Ok(open(target).expect("it wrote a file"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// The image over its parents, which lie beside it under the names that it says.
fn whole(path: &Path, format: Format, beside: &Beside) -> Result<Chain, SourceError> {
    let file: Arc<dyn ReadAt> = Arc::new(open(path).expect("opens"));
    let parent = match vellum_formats::image_facts(format, Arc::clone(&file))?.parent {
        Some(parent) => {
            let found = parent
                .hints
                .iter()
                .map(|hint| beside.0.join(hint))
                .find(|path| path.is_file());
            let found = found.ok_or_else(|| SourceError::Refused {
                format: format.format_name(),
                reason: format!("its parent {parent} is not beside it"),
            })?;
            Some(Box::new(whole(&found, format, beside)?))
        }
        None => None,
    };
    let top = vellum_formats::open_over_parent(format, file, Arc::new(Codecs), beside)?;
    Ok(Chain { top, parent })
}

/// An image and what it stands on.
struct Chain {
    top: Box<dyn ImageSource>,
    parent: Option<Box<Chain>>,
}

impl Chain {
    fn len(&self) -> u64 {
        self.top.len()
    }

    /// Absent asks the parent, as far as that one goes; zeros behind it.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let mut at = 0;
        while at < buffer.len() {
            let extent = self.top.extent_at(offset + at as u64)?;
            let len = usize::try_from(extent.len)
                .map_or(buffer.len() - at, |len| len.min(buffer.len() - at));
            let part = &mut buffer[at..at + len];
            match (extent.kind, &self.parent) {
                (ExtentKind::Absent, Some(parent)) => {
                    part.fill(0);
                    let there = parent.len().saturating_sub(extent.start).min(len as u64) as usize;
                    parent.read_at(&mut part[..there], extent.start)?;
                }
                _ => self.top.read_at(part, extent.start)?,
            }
            at += len;
        }
        Ok(())
    }

    /// Whether nothing but holes is in the range.
    fn is_hole(&self, offset: u64, len: u64) -> bool {
        let is_none = |source: &dyn ImageSource| {
            source
                .extent_at(offset)
                .is_ok_and(|extent| extent.kind != ExtentKind::Data && extent.len >= len)
        };
        is_none(&*self.top)
            && self
                .parent
                .as_ref()
                .is_none_or(|parent| parent.is_hole(offset, len))
    }
}

/// Where the two differ first.
fn difference(ours: &Chain, theirs: &OpenFile) -> Option<String> {
    if ours.len() != theirs.1 {
        return Some(format!("{} bytes, not {}", ours.len(), theirs.1));
    }
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for offset in (0..ours.len()).step_by(PIECE_LEN as usize) {
        let len = (ours.len() - offset).min(PIECE_LEN) as usize;
        if ours.is_hole(offset, len as u64)
            && theirs
                .next_data(offset)
                .is_ok_and(|data| data.is_none_or(|(start, _)| start >= offset + len as u64))
        {
            continue;
        }
        left.resize(len, 0);
        right.resize(len, 0);
        if let Err(error) = ours.read_at(&mut left, offset) {
            return Some(format!("at {offset}: {error}"));
        }
        theirs.read_exact_at(&mut right, offset).expect("read");
        if left != right {
            return Some(format!("content within 1 MiB from {offset} on"));
        }
    }
    None
}

#[test]
fn foreign_images_read_as_their_makers_meant_them() {
    let Some(folder) = std::env::var_os("VELLUM_FOREIGN") else {
        println!("foreign images: none tried; VELLUM_FOREIGN names a folder of them");
        return;
    };
    let room = tempfile::tempdir().expect("a folder");
    unpack(Path::new(&folder), room.path());
    let (mut told, mut wrong) = (BTreeMap::new(), Vec::new());
    for entry in fs::read_dir(room.path()).expect("listed") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let Ok(FormatVerdict::Known(format)) =
            open(&path).map(|file| probe_file(&file).expect("read").verdict())
        else {
            told.insert(name, "no container that is read".to_owned());
            continue;
        };
        let beside = Beside(room.path().to_owned());
        let file = Arc::new(open(&path).expect("opens"));
        let target = room.path().join("by-qemu.raw");
        let ours = whole(&path, format, &beside);
        let facts = vellum_formats::image_facts(format, file);
        let verdict = match (ours, by_qemu(&path, format, &target)) {
            (Ok(ours), Ok(theirs)) => match difference(&ours, &theirs) {
                None => "the same as qemu-img".to_owned(),
                Some(difference) => {
                    wrong.push(format!("{name}: {difference}"));
                    difference
                }
            },
            (Ok(ours), Err(error)) => format!("read, {} bytes; qemu-img: {error}", ours.len()),
            (Err(error), Ok(_)) => {
                wrong.push(format!("{name}: {error}"));
                format!("refused ({error}), which qemu-img reads")
            }
            (Err(error), Err(_)) => format!("refused by both: {error}"),
        };
        let variant = facts.map_or("?", |facts| facts.variant);
        told.insert(name, format!("{format} {variant}: {verdict}"));
        let _ = fs::remove_file(target);
    }
    for (name, verdict) in &told {
        println!("{name}: {verdict}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The descriptions of the folder are machines whose disks are all there.
#[test]
fn foreign_machines_are_read() {
    let Some(folder) = std::env::var_os("VELLUM_FOREIGN") else {
        println!("foreign machines: none tried; VELLUM_FOREIGN names a folder of them");
        return;
    };
    for entry in fs::read_dir(folder).expect("listed") {
        let path = entry.expect("an entry").path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if !matches!(ending, Some("vbox" | "xml" | "ovf")) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("read");
        let machine = MachineDescription::parse(&text).expect("a machine");
        let media: Vec<_> = machine
            .media
            .iter()
            .map(|medium| &medium.location)
            .collect();
        println!("{}: {:?}, {media:?}", path.display(), machine.name);
        assert!(!machine.attachments.is_empty(), "{}", path.display());
    }
}

#[test]
fn a_foreign_parallels_image_is_read() {
    let Some(folder) = std::env::var_os("VELLUM_FOREIGN") else {
        return;
    };
    let room = tempfile::tempdir().expect("a folder");
    unpack(Path::new(&folder), room.path());
    let Ok(file) = open(&room.path().join("parallels-v2")) else {
        return;
    };
    let image = vellum_formats::parallels::open_image(Arc::new(file)).expect("opens");
    let target = room.path().join("by-qemu.raw");
    let source = room.path().join("parallels-v2");
    let words = [
        "convert",
        "-f",
        "parallels",
        "-O",
        "raw",
        qemu::word(&source),
        qemu::word(&target),
    ];
    qemu::run(&words).expect("qemu-img reads it");
    let raw = Arc::new(open(&target).expect("opens"));
    let raw = vellum_formats::open_image(
        Format::Raw,
        raw,
        Arc::new(Codecs),
        &vellum_formats::NoCompanions,
    );
    let found = first_difference(&*image, &*raw.expect("raw")).expect("read");
    assert_eq!(found, None);
}
