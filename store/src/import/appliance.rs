//! The description of a machine inside an archive of it and its disks.

use std::path::Path;
use std::sync::Arc;

use vellum_core::source::{ReadAt, SourceError};
use vellum_formats::machine::DESCRIPTION_LEN_MAX;
use vellum_formats::ova;

use crate::error::StoreError;
use crate::file_source::FileSource;

/// Magic number of a tar archive, and its offset.
const TAR_MAGIC: &[u8; 5] = b"ustar";
const TAR_MAGIC_AT: u64 = 257;

/// The description of a machine inside the OVA at `path`; none if it is no archive.
///
/// # Errors
///
/// When it is one and has none, or cannot be read.
pub fn description_in_archive(path: &Path) -> Result<Option<String>, StoreError> {
    let file: Arc<dyn ReadAt> = Arc::new(FileSource::open_file(path)?);
    let fail = |source| StoreError::Source {
        name: path.display().to_string(),
        source,
    };
    let mut magic = [0; TAR_MAGIC.len()];
    if file.read_exact_at(&mut magic, TAR_MAGIC_AT).is_err() || magic != *TAR_MAGIC {
        return Ok(None);
    }
    let members = ova::list_members(&*file).map_err(fail)?;
    let is_description = |member: &&ova::ArchiveMember| {
        Path::new(&member.name)
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("ovf"))
    };
    let refused = |reason: &str| {
        fail(SourceError::Refused {
            format: "ova",
            reason: reason.to_owned(),
        })
    };
    let member = members.iter().find(is_description);
    let member = member.ok_or_else(|| refused("no .ovf that describes a machine is in it"))?;
    if member.len > DESCRIPTION_LEN_MAX as u64 {
        return Err(refused(
            "its .ovf is longer than any that describes a machine",
        ));
    }
    let mut bytes = vec![0; member.len as usize];
    let read = ova::open_member(Arc::clone(&file), member).read_exact_at(&mut bytes, 0);
    read.map_err(|source| fail(SourceError::Io { offset: 0, source }))?;
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| refused("its .ovf is no text"))
}
