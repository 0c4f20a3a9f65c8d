//! Frames that wait to be decoded, as they are stored, in a file without a name.
//!
//! A stream wants chunks in a disk's order. In an encrypted repository that is not the order of
//! packs, so reading a few pages at a time would ask far-away places for the same parts of packs
//! again and again. With a spool each part is fetched once, many at a time, before the first byte
//! goes out. It is what the place holds, sealed as there: nothing of it is readable without the
//! key.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use vellum_store::Watch;

use crate::catalog::{Place, PlainFrame};
use crate::error::BackupError;
use crate::objects::ObjectId;
use crate::reader::Reader;

/// The share of a file system's free room that a spool takes at most: one byte in so many.
const ROOM_DIVISOR: u64 = 2;

/// The parts of packs that were fetched.
pub(crate) struct Spool {
    file: File,
    parts: Mutex<SpooledParts>,
}

#[derive(Default)]
struct SpooledParts {
    /// The offset of each part in the file, by its place.
    offsets: HashMap<(ObjectId, u64), u64>,
    end: u64,
    /// True once the file takes no more: what is missing is fetched when it is wanted.
    is_full: bool,
}

impl Spool {
    /// Fetches the frames of these groups. None if there is no folder with room for them: then they
    /// are fetched when they are wanted. So is whatever a collection moved in the meantime.
    pub(crate) fn fetch(
        reader: &Reader<'_>,
        groups: &[Vec<Place>],
        watch: &dyn Watch,
    ) -> Result<Option<Self>, BackupError> {
        let places = groups.iter().flatten();
        let len = places.map(|place| u64::from(place.len)).sum();
        let cache = reader.repository().cache_folder();
        let mut folders = cache.into_iter().chain([std::env::temp_dir()]);
        let Some(file) = folders.find_map(|folder| nameless(&folder, len)) else {
            return Ok(None);
        };
        let spool = Self {
            file,
            parts: Mutex::default(),
        };
        reader.each_group_sealed(groups, &|group, parts| {
            spool.keep(group, &parts);
            if watch.is_cancelled() {
                return Err(BackupError::Interrupted);
            }
            Ok(())
        })?;
        Ok(Some(spool))
    }

    fn keep(&self, group: &[Place], sealed: &[Vec<u8>]) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, part) in group.iter().zip(sealed) {
            if parts.is_full || self.file.write_all_at(part, parts.end).is_err() {
                parts.is_full = true;
                break;
            }
            let offset = parts.end;
            parts.offsets.insert((place.pack, place.offset), offset);
            parts.end += part.len() as u64;
        }
    }

    /// The frames of one group, in any order: what is not here, or not as it was, is fetched.
    pub(crate) fn frames(
        &self,
        reader: &Reader<'_>,
        group: &[Place],
    ) -> Result<Vec<(u32, PlainFrame)>, BackupError> {
        let (mut frames, mut others) = (Vec::with_capacity(group.len()), Vec::new());
        for place in group {
            let part = self.part(place).ok();
            let frame = part.and_then(|part| reader.catalog().decode_part(place, &part).ok());
            match frame {
                Some(frame) => frames.push((place.segment, frame)),
                None => others.push(place.clone()),
            }
        }
        if !others.is_empty() {
            frames.extend(reader.frames(&others)?);
        }
        Ok(frames)
    }

    fn part(&self, place: &Place) -> io::Result<Vec<u8>> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = parts.offsets.get(&(place.pack, place.offset)).copied();
        drop(parts);
        let mut part = vec![0; place.len as usize];
        let offset = offset.ok_or(io::ErrorKind::NotFound)?;
        self.file.read_exact_at(&mut part, offset)?;
        Ok(part)
    }
}

/// A file without a name in `folder`, if that has room for `len` bytes and more.
fn nameless(folder: &Path, len: u64) -> Option<File> {
    let file = tempfile::tempfile_in(folder).ok()?;
    let space = rustix::fs::fstatvfs(&file).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    (len <= free / ROOM_DIVISOR).then_some(file)
}
