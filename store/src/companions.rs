//! Companion files of an image, which lie beside it and which it consists of: the extents of a
//! VMDK.
//!
//! A header's word opens a file only if its name is a plain one that ends in `.vmdk`, beside the
//! image that a person named, and no link: what an attacker can write into a descriptor then reads
//! at most other extents of the same folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use vellum_core::source::{ReadAt, SourceError};
use vellum_formats::Companions;

use crate::file_source::FileSource;

/// The extents in one folder.
pub struct FolderCompanions {
    dir: PathBuf,
}

impl FolderCompanions {
    /// The companions of the image at `path`.
    #[must_use]
    pub fn beside_image(path: &Path) -> Self {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        Self {
            dir: dir.unwrap_or(Path::new(".")).to_owned(),
        }
    }
}

impl Companions for FolderCompanions {
    fn open_companion(
        &self,
        format: &'static str,
        name: &str,
    ) -> Result<Arc<dyn ReadAt>, SourceError> {
        let refused = |why: String| SourceError::Refused {
            format,
            reason: format!("its extent {name:?} {why}"),
        };
        let is_extent = Path::new(name)
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("vmdk"));
        if name.contains(['/', '\0']) || !is_extent {
            return Err(refused(
                "is not a .vmdk file beside it, and no other file is opened".to_owned(),
            ));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(CWD, self.dir.join(name), flags, Mode::empty());
        let file = opened.map_err(|errno| refused(format!("cannot be opened: {errno}")))?;
        let file = FileSource::of_file(File::from(file))
            .map_err(|error| refused(format!("cannot be opened: {error}")))?;
        Ok(Arc::new(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_extents_beside_the_image_are_opened() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("inner")).expect("made");
        for name in ["a-flat.vmdk", "secret", "inner/b.vmdk"] {
            std::fs::write(at(name), "x").expect("written");
        }
        std::os::unix::fs::symlink(at("secret"), at("link.vmdk")).expect("linked");
        std::fs::create_dir(at("folder.vmdk")).expect("made");
        let companions = FolderCompanions::beside_image(&at("disk.vmdk"));
        assert_eq!(
            companions
                .open_companion("vmdk", "a-flat.vmdk")
                .expect("opens")
                .len(),
            1
        );
        for name in [
            "secret",
            "link.vmdk",
            "folder.vmdk",
            "none.vmdk",
            "inner/b.vmdk",
            "../a-flat.vmdk",
            "/etc/x.vmdk",
            "",
            ".vmdk",
        ] {
            assert!(companions.open_companion("vmdk", name).is_err(), "{name}");
        }
    }
}
