//! Looks for the file that a child names: beside it, among files of its own format only.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use vellum_formats::probe::{FormatVerdict, probe_file};
use vellum_formats::{DiskIdentity, Format, ParentReference, image_facts};

use crate::destination::folder_of;
use crate::error::StoreError;
use crate::file_source::FileSource;

/// Files of a folder that are looked at: a machine has dozens.
const FOLDER_ENTRIES_MAX: usize = 10_000;

/// A file, whatever its name: device and number.
pub(super) type FileKey = (u64, u64);

/// The file that a parent is looked for.
pub(super) struct ChildFile<'a> {
    pub(super) path: &'a Path,
    pub(super) key: FileKey,
    pub(super) format: Format,
}

/// The file beside `child` that it names.
pub(super) fn find_beside(
    child: &ChildFile<'_>,
    parent: &ParentReference,
) -> Result<PathBuf, String> {
    let dir = folder_of(child.path);
    if parent.identity.is_some() {
        return find_by_identity(dir, child, parent);
    }
    let Some(hint) = parent.hints.first() else {
        return Err("its name is not told".to_owned());
    };
    let name = hint.strip_prefix("./").unwrap_or(hint);
    if name.contains(':') {
        return Err("is no plain name, and what it means is not followed".to_owned());
    }
    if name.contains(['/', '\\', '\0']) || [".", "..", ""].contains(&name) {
        return Err("is not the name of a file beside it, and no other file is opened".to_owned());
    }
    Ok(path_inside(dir, name))
}

/// `name` in `dir`, as a user would write it.
pub(super) fn path_inside(dir: &Path, name: &str) -> PathBuf {
    if dir == Path::new(".") {
        PathBuf::from(name)
    } else {
        dir.join(name)
    }
}

/// The file in `dir` that has the identity which `child` names: of its format only.
pub(super) fn find_by_identity(
    dir: &Path,
    child: &ChildFile<'_>,
    parent: &ParentReference,
) -> Result<PathBuf, String> {
    let Some(identity) = parent.identity else {
        let name = parent.hints.first().and_then(|hint| plain_end(hint));
        return name
            .map(|name| path_inside(dir, &name))
            .ok_or_else(|| "its name is not told".to_owned());
    };
    let mut names = names_in(dir).map_err(|error| error.to_string())?;
    names.retain(|name| has_ending_of(child.format, name));
    let matches = |name: &String| identity_of(child, &dir.join(name)) == Some(identity);
    let hinted = parent.hints.iter().filter_map(|hint| plain_end(hint));
    for hint in hinted {
        if let Some(name) = names
            .iter()
            .find(|name| **name == hint)
            .filter(|name| matches(name))
        {
            return Ok(path_inside(dir, name));
        }
    }
    let found: Vec<&String> = names.iter().filter(|name| matches(name)).collect();
    match found.as_slice() {
        [name] => Ok(path_inside(dir, name)),
        [] => Err(format!(
            "no {} file in {} has that identity",
            child.format,
            dir.display()
        )),
        [first, second, ..] => Err(format!("{first} and {second} both have that identity")),
    }
}

/// Part of a path behind its last separator, be it `/` or `\`.
fn plain_end(hint: &str) -> Option<String> {
    let end = hint.rsplit(['/', '\\']).next().unwrap_or(hint);
    (!end.is_empty() && end != ".." && end != ".").then(|| end.to_owned())
}

/// The identity of another file than `child`, if it is an image of the same format.
fn identity_of(child: &ChildFile<'_>, path: &Path) -> Option<DiskIdentity> {
    let (file, key) = open_beside(path).ok()?;
    if key == child.key {
        return None;
    }
    let seen = probe_file(&file).ok()?;
    if seen.verdict() != FormatVerdict::Known(child.format) {
        return None;
    }
    image_facts(child.format, Arc::new(file)).ok()?.identity
}

fn has_ending_of(format: Format, name: &str) -> bool {
    let endings: &[&str] = match format {
        Format::Raw => &[],
        Format::Qcow2 => &["qcow2"],
        Format::Vdi => &["vdi"],
        Format::Vmdk => &["vmdk"],
        Format::Vhd => &["vhd", "avhd", "vpc"],
        Format::Vhdx => &["vhdx", "avhdx"],
    };
    let ending = Path::new(name).extension().unwrap_or_default();
    endings
        .iter()
        .any(|known| ending.eq_ignore_ascii_case(known))
}

/// The names in a folder, sorted. One that is no text is left out.
pub(super) fn names_in(dir: &Path) -> Result<Vec<String>, StoreError> {
    let fail = |source| StoreError::of_file("read", dir, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
            names.push(name);
        }
        if names.len() > FOLDER_ENTRIES_MAX {
            let many = format!("more than {FOLDER_ENTRIES_MAX} files are in it");
            return Err(fail(std::io::Error::other(many)));
        }
    }
    names.sort();
    Ok(names)
}

/// Opens a regular file that only a header or a folder named, not the user: no link, no device, no
/// pipe.
pub(super) fn open_beside(path: &Path) -> Result<(FileSource, FileKey), String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fail = |error: std::io::Error| format!("cannot be opened: {error}");
    let opened = openat(CWD, path, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
    let file = File::from(opened);
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    let file = FileSource::of_file(file).map_err(fail)?;
    Ok((file, (metadata.dev(), metadata.ino())))
}
