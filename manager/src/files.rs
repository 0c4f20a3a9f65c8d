//! Files on the server's machine that a person may name: only below the folders that were given
//! when the manager started, wherever links lead.

use std::path::{Path, PathBuf};

/// Entries of a folder that are shown.
const ENTRIES_MAX: usize = 1000;

/// The reason why a path is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PathRefusal {
    #[error("no folder was named with --files, so no path on this machine may be named")]
    NoFolders,
    #[error("{0} is not below a folder that was named with --files")]
    Outside(String),
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    #[error("{0} is no plain file name")]
    Name(String),
}

/// An entry of a folder.
#[derive(Debug)]
pub(crate) struct FolderEntry {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) is_folder: bool,
    pub(crate) len: u64,
}

/// The path that `text` really is, if it is there and below one of `folders`.
pub(crate) fn existing_path(folders: &[PathBuf], text: &str) -> Result<PathBuf, PathRefusal> {
    if folders.is_empty() {
        return Err(PathRefusal::NoFolders);
    }
    let path = Path::new(text);
    if !path.is_absolute() || text.contains('\0') {
        return Err(PathRefusal::Outside(text.to_owned()));
    }
    // Refused alike whether it is there or not: the answer must not tell what is elsewhere.
    let real = path
        .canonicalize()
        .map_err(|_| PathRefusal::Outside(text.to_owned()))?;
    if folders.iter().any(|folder| real.starts_with(folder)) {
        Ok(real)
    } else {
        Err(PathRefusal::Outside(text.to_owned()))
    }
}

/// The path of a file to be made: its folder is there and below one of `folders`.
pub(crate) fn new_path(folders: &[PathBuf], text: &str) -> Result<PathBuf, PathRefusal> {
    let path = Path::new(text);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(PathRefusal::Name(text.to_owned()));
    };
    if !path.to_string_lossy().ends_with(&*name.to_string_lossy()) {
        return Err(PathRefusal::Name(text.to_owned()));
    }
    let parent = existing_path(folders, &parent.to_string_lossy())?;
    let made = parent.join(name);
    // A link that is there would lead elsewhere.
    match made.symlink_metadata() {
        Ok(found) if found.file_type().is_symlink() => Err(PathRefusal::Outside(text.to_owned())),
        _ => Ok(made),
    }
}

/// The entries of a folder, folders first.
pub(crate) fn list_folder(folder: &Path) -> Result<Vec<FolderEntry>, PathRefusal> {
    let fail = |error| PathRefusal::Io(folder.display().to_string(), error);
    let entries = std::fs::read_dir(folder).map_err(fail)?;
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let found = entry.metadata().ok()?;
        let name = entry.file_name().into_string().ok()?;
        (found.is_dir() || found.is_file()).then(|| FolderEntry {
            path: entry.path(),
            name,
            is_folder: found.is_dir(),
            len: found.len(),
        })
    };
    let mut entries: Vec<FolderEntry> = entries.filter_map(entry).take(ENTRIES_MAX).collect();
    entries.sort_by(|a, b| (!a.is_folder, &a.name).cmp(&(!b.is_folder, &b.name)));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_named_folders() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path().canonicalize().expect("it is there");
        let (inside, beside) = (root.join("inside"), root.join("inside-too"));
        for folder in [&inside, &beside] {
            std::fs::create_dir(folder).expect("room");
            std::fs::write(folder.join("disk.raw"), "x").expect("room");
        }
        std::os::unix::fs::symlink(&beside, inside.join("link")).expect("room");
        std::os::unix::fs::symlink("/etc/passwd", inside.join("passwd")).expect("room");
        let folders = [inside.clone()];
        let text = |path: &str| format!("{}/{path}", inside.display());
        for (path, is_fine) in [
            (text("disk.raw"), true),
            (text("."), true),
            (text("../inside/disk.raw"), true),
            (text("../inside-too/disk.raw"), false),
            (text("link/disk.raw"), false),
            (text("passwd"), false),
            (text("nothing"), false),
            (text("disk.raw\0"), false),
            ("inside/disk.raw".to_owned(), false),
            ("/etc/passwd".to_owned(), false),
            ("/".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(existing_path(&folders, &path).is_ok(), is_fine, "{path:?}");
            assert!(existing_path(&[], &path).is_err());
        }
        for (path, is_fine) in [
            (text("new.raw"), true),
            (text("passwd"), false),
            (text("link/new.raw"), false),
            (text("../new.raw"), false),
            (text(".."), false),
            (text("new.raw/"), false),
            ("new.raw".to_owned(), false),
            ("/".to_owned(), false),
        ] {
            assert_eq!(new_path(&folders, &path).is_ok(), is_fine, "{path:?}");
        }
        let entries = list_folder(&inside).expect("it is there");
        assert_eq!(entries.len(), 1, "{entries:?}");
    }
}
