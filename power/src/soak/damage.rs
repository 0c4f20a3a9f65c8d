//! Flips a bit in a copy of a store: the copy shows right bytes or an error, and never wrong bytes.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::model::Names;
use super::site::{Site, words};
use crate::file_system::run;

/// Flips one bit in a copy of the store, in memory; whether the check found it or the copy was
/// refused.
pub(crate) fn flip(site: &Site, names: &Names, random: &mut fastrand::Rng) -> Result<bool, String> {
    let copy = Site {
        root: site.scratch.join("flipped"),
        ..site.clone()
    };
    // Of a copy before, if that was left.
    let _ = std::fs::remove_dir_all(&copy.root);
    std::fs::create_dir(&copy.root).map_err(|error| error.to_string())?;
    run(Command::new("cp")
        .arg("-a")
        .arg(site.root.join("store"))
        .arg(&copy.root))?;
    let place = flip_one(&copy.root.join("store"), random)?;
    let found = held_against(&copy, names).map_err(|error| format!("{place}: {error}"));
    // The space is needed; what cannot be removed is found the next time.
    let _ = std::fs::remove_dir_all(&copy.root);
    found
}

fn held_against(copy: &Site, names: &Names) -> Result<bool, String> {
    let checked = copy.run(&words(&["check", "--read-data"]))?;
    let is_clean = [Some(0), Some(3)].contains(&checked.code);
    for (name, shown) in names {
        let exported = copy.run(&words(&["export", name, "-"]))?;
        let Some(expected) = shown.bytes() else {
            continue;
        };
        if exported.code == Some(0) && exported.stdout != **expected {
            return Err(format!("{name} comes out wrong"));
        }
        if exported.code != Some(0) && is_clean {
            let said = exported.stderr.trim();
            return Err(format!(
                "the check is clean, but {name} cannot be read: {said}"
            ));
        }
    }
    Ok(!is_clean)
}

/// Flips a bit of some file of the folder `dir`; where.
fn flip_one(dir: &Path, random: &mut fastrand::Rng) -> Result<String, String> {
    let fail = |error: std::io::Error| format!("{}: {error}", dir.display());
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let kind = path.symlink_metadata().map_err(fail)?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && kind.len() > 0 && is_read(&path) {
                files.push((path, kind.len()));
            }
        }
    }
    files.sort();
    if files.is_empty() {
        return Err("there is no file".to_owned());
    }
    let (path, len) = &files[random.usize(..files.len())];
    let (at, bit) = (random.u64(..*len), random.u8(..8));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(fail)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).map_err(fail)?;
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at).map_err(fail)?;
    let name: PathBuf = path.strip_prefix(dir).unwrap_or(path).to_owned();
    Ok(format!("bit {bit} of byte {at} of {}", name.display()))
}

/// True if the content of a file means anything.
fn is_read(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    !name.is_some_and(|name| ["reserve", "lock", "LOCK"].contains(&name) || name.starts_with("LOG"))
}
