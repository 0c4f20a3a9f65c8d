//! A disk image, or any file or device, as a chunk source: its bytes are cut into chunks and named,
//! and a chunk that has a wanted name is the wanted one.
//!
//! A raw image has its chunks on the grid: at multiples of their length. Elsewhere (a disk inside
//! of another file, behind a header of some hundred bytes) they lie at *odd offsets*: all at the
//! same distance from the grid, or at a few distances in different parts. To find out which, a few
//! places in each section of the file are cut at every distance, and named: where the store that
//! asks knows one of these names, the whole section is cut at that distance. That costs about as
//! much as cutting the section once more.
//!
//! A file in another format is looked at as the disk that it holds, too, since its clusters may be
//! compressed.
//!
//! Names and places that were met are kept in memory, up to [`PLACES_MAX`], and the walk over the
//! file goes on where it ended when more is wanted. The file may change: a chunk that is found is
//! read again and held against its name, and a file that is not as it was is walked over anew.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::{ParallelIterator, ParallelSlice};
use vellum_core::hash::{ChunkHash, hash_chunks, is_zero};
use vellum_core::source::{ExtentKind, ImageSource, SourceError};
use vellum_core::units::ChunkLen;
use vellum_formats::input::{InputChoice, InputFormat};
use vellum_formats::{Format, probe};

use crate::chunks::{ChunkSource, WantedChunks};
use crate::codec::ClusterCodecs;
use crate::companions::FolderCompanions;
use crate::file_source::FileSource;

/// Bytes that are read and cut at a time; at odd offsets, the section that has one set of
/// distances.
const SECTION_LEN: u64 = 16 << 20;
/// Places in a section that are cut at every distance.
const SAMPLES_PER_SECTION: u64 = 2;
/// Distances that are tried in every section once they were met in one.
const DISTANCES_MAX: usize = 8;
/// Up to this length chunks are looked for at every byte; longer ones at every [`STEP_LEN`]: the
/// cost of a sample is the square of their length.
const EVERY_BYTE_LEN_MAX: usize = 8 << 10;
const STEP_LEN: usize = 512;
/// Names whose places are remembered: 128 MiB, for 32 GiB of chunks of 4 KiB.
const PLACES_MAX: usize = 8 << 20;
/// Chunks that one core names at a time.
const CHUNKS_PER_TASK: usize = 256;
/// Set in a place that is in the disk which the file holds, not in the file.
const IN_DISK: u64 = 1 << 63;

/// A file that may hold chunks.
pub struct ImageFileSource {
    path: PathBuf,
    odd_offsets: bool,
    walked: Mutex<Option<ChunkPlaces>>,
}

/// Names and places that were met in a file.
struct ChunkPlaces {
    stamp: FileStamp,
    chunk_len: ChunkLen,
    /// The beginning of each name, and where its chunk is, in order.
    places: Vec<(u64, u64)>,
    /// Position of the walk: the index of the content, and the offset in it. None if all was walked
    /// over.
    next: Option<(usize, u64)>,
    /// Distances from the grid at which chunks were met.
    distances: Vec<usize>,
}

/// Stamp that tells a file from another, and from itself after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    file: (u64, u64),
    len: u64,
    changed: (i64, i64),
}

/// Contents that are cut: the file as it is, and the disk that it holds if it is a container.
struct ImageFileContents(Vec<Box<dyn ImageSource>>);

impl ImageFileSource {
    /// The file at `path`, which need not be there yet; with `odd_offsets` chunks are looked for
    /// everywhere in it.
    #[must_use]
    pub fn new(path: &Path, odd_offsets: bool) -> Self {
        Self {
            path: path.to_owned(),
            odd_offsets,
            walked: Mutex::default(),
        }
    }

    fn file_stamp(&self) -> Result<FileStamp, String> {
        let metadata = std::fs::metadata(&self.path)
            .map_err(|error| format!("cannot look at {}: {error}", self.path.display()))?;
        Ok(FileStamp {
            file: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl ChunkSource for ImageFileSource {
    fn source_name(&self) -> String {
        self.path.display().to_string()
    }

    fn fetch_chunks(&self, wanted: &WantedChunks<'_>) -> Result<Vec<Option<Vec<u8>>>, String> {
        let mut walked = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.file_stamp()?;
        let contents = ImageFileContents::open_file(&self.path)?;
        let mut found: Vec<Option<Vec<u8>>> = vec![None; wanted.names.len()];
        if let Some(walked) = walked
            .as_ref()
            .filter(|walked| walked.chunk_len == wanted.chunk_len)
        {
            walked.look_up(&contents, wanted.names, &mut found);
        }
        let is_same =
            |walked: &ChunkPlaces| walked.stamp == stamp && walked.chunk_len == wanted.chunk_len;
        if found.iter().all(Option::is_some) {
            return Ok(found);
        }
        if !walked.as_ref().is_some_and(is_same) {
            *walked = Some(ChunkPlaces::new(stamp, wanted.chunk_len));
        }
        let walked = walked.as_mut().expect("just put there");
        walked
            .go_on(&contents, self.odd_offsets, wanted, &mut found)
            .map_err(|error| format!("{}: {error}", self.path.display()))?;
        Ok(found)
    }
}

impl ImageFileContents {
    fn open_file(path: &Path) -> Result<Self, String> {
        let file = FileSource::open_file(path).map_err(|error| error.to_string())?;
        let file = Arc::new(file);
        let companions = FolderCompanions::beside_image(path);
        let choice = InputChoice {
            disk: None,
            is_over_parent: true,
        };
        let open = |format: InputFormat| {
            let file: Arc<FileSource> = Arc::clone(&file);
            let opened = format.open_disk(file, choice, Arc::new(ClusterCodecs), &companions);
            opened.map(|disk| disk.source)
        };
        let raw = InputFormat::Image(Format::Raw);
        let plain = open(raw).map_err(|error| error.to_string())?;
        // One that cannot be read as a disk is still a file.
        let seen = probe::probe_file(&*file).ok();
        let format = seen.and_then(|probe| probe.verdict().input_format());
        let disk = format
            .filter(|format| *format != raw)
            .and_then(|format| open(format).ok());
        Ok(Self([Some(plain), disk].into_iter().flatten().collect()))
    }

    /// The chunk at a place, with zeros for what lies behind the end.
    fn read_chunk(&self, place: u64, len: usize) -> Option<Vec<u8>> {
        let content = self.0.get(usize::from(place & IN_DISK != 0))?;
        read_zero_padded(&**content, place & !IN_DISK, len as u64).ok()
    }
}

/// `len` bytes from `at`, with zeros for what lies behind the end.
fn read_zero_padded(content: &dyn ImageSource, at: u64, len: u64) -> Result<Vec<u8>, SourceError> {
    let mut bytes = vec![0; len as usize];
    let inside = content.len().saturating_sub(at).min(len) as usize;
    content.read_at(&mut bytes[..inside], at)?;
    Ok(bytes)
}

impl ChunkPlaces {
    fn new(stamp: FileStamp, chunk_len: ChunkLen) -> Self {
        Self {
            stamp,
            chunk_len,
            places: Vec::new(),
            next: Some((0, 0)),
            distances: Vec::new(),
        }
    }

    /// Fills in what is found at the places that are known.
    fn look_up(
        &self,
        contents: &ImageFileContents,
        names: &[ChunkHash],
        found: &mut [Option<Vec<u8>>],
    ) {
        for (name, slot) in names.iter().zip(found) {
            let prefix = u64::from_be_bytes(name.index_prefix());
            let from = self.places.partition_point(|(other, _)| *other < prefix);
            *slot = self.places[from..]
                .iter()
                .take_while(|(other, _)| *other == prefix)
                .filter_map(|(_, place)| contents.read_chunk(*place, self.chunk_len.as_usize()))
                .find(|plain| ChunkHash::of_chunk(plain) == *name);
        }
    }

    /// Walks on until all that is wanted was found, or to the end.
    fn go_on(
        &mut self,
        contents: &ImageFileContents,
        odd_offsets: bool,
        wanted: &WantedChunks<'_>,
        found: &mut [Option<Vec<u8>>],
    ) -> Result<(), SourceError> {
        let mut missing: HashSet<ChunkHash> = wanted
            .names
            .iter()
            .zip(&*found)
            .filter_map(|(name, found)| found.is_none().then_some(*name))
            .collect();
        while let Some((nth, at)) = self.next.filter(|_| !missing.is_empty()) {
            let Some(content) = contents.0.get(nth) else {
                self.next = None;
                break;
            };
            let Some(start) = next_data(&**content, at)? else {
                self.next = Some((nth + 1, 0));
                continue;
            };
            let start = start - start % self.chunk_len.byte_len();
            let end = (start + SECTION_LEN.max(self.chunk_len.byte_len())).min(content.len());
            // One chunk more, for those that begin inside and end behind.
            let bytes = read_zero_padded(
                &**content,
                start,
                end - start + 2 * self.chunk_len.byte_len(),
            )?;
            let distances = self.distances_in(&bytes, odd_offsets && nth == 0, wanted);
            for distance in distances {
                let places = self.hash_at_distance(&bytes, distance, (end - start) as usize);
                for (name, within) in places {
                    if missing.remove(&name) {
                        let plain = &bytes[within..][..self.chunk_len.as_usize()];
                        let of_name = |(other, _): &(&ChunkHash, _)| **other == name;
                        let slot = wanted.names.iter().zip(found.iter_mut()).find(of_name);
                        slot.into_iter()
                            .for_each(|(_, slot)| *slot = Some(plain.to_vec()));
                    }
                    if self.places.len() < PLACES_MAX {
                        let place = start + within as u64;
                        let place = if nth == 0 { place } else { place | IN_DISK };
                        self.places
                            .push((u64::from_be_bytes(name.index_prefix()), place));
                    }
                }
            }
            self.next = Some((nth, end));
        }
        self.places.sort_unstable();
        Ok(())
    }

    /// The names of the chunks in a section that lie `distance` behind the grid, and where they
    /// begin in it.
    fn hash_at_distance(
        &self,
        bytes: &[u8],
        distance: usize,
        end: usize,
    ) -> Vec<(ChunkHash, usize)> {
        let len = self.chunk_len.as_usize();
        let starts: Vec<usize> = (distance..end)
            .step_by(len)
            .filter(|start| !is_zero(&bytes[*start..][..len]))
            .collect();
        starts
            .par_chunks(CHUNKS_PER_TASK)
            .flat_map_iter(|starts| {
                let chunks: Vec<&[u8]> =
                    starts.iter().map(|start| &bytes[*start..][..len]).collect();
                hash_chunks(&chunks).into_iter().zip(starts.to_vec())
            })
            .collect()
    }

    /// Distances behind the grid at which chunks may lie in a section.
    fn distances_in(
        &mut self,
        bytes: &[u8],
        odd_offsets: bool,
        wanted: &WantedChunks<'_>,
    ) -> Vec<usize> {
        if odd_offsets {
            let len = self.chunk_len.as_usize();
            let room = bytes.len() - 2 * len;
            for nth in 0..SAMPLES_PER_SECTION as usize {
                let at = room / (SAMPLES_PER_SECTION as usize + 1) * (nth + 1) / len * len;
                self.sample_distances(&bytes[at..at + 2 * len], wanted);
            }
        }
        let mut distances = vec![0];
        distances.extend(self.distances.iter().filter(|distance| **distance != 0));
        distances
    }

    /// Cuts two chunks' bytes at every distance, unless one that is known leads to a known name.
    fn sample_distances(&mut self, bytes: &[u8], wanted: &WantedChunks<'_>) {
        let len = self.chunk_len.as_usize();
        let known_at = |distances: &[usize]| {
            let data: Vec<usize> = distances
                .iter()
                .copied()
                .filter(|distance| !is_zero(&bytes[*distance..][..len]))
                .collect();
            let names: Vec<ChunkHash> = data
                .par_chunks(CHUNKS_PER_TASK)
                .flat_map_iter(|some| {
                    let chunks: Vec<&[u8]> = some.iter().map(|at| &bytes[*at..][..len]).collect();
                    hash_chunks(&chunks)
                })
                .collect();
            let known = (wanted.known)(&names);
            data.into_iter()
                .zip(known)
                .find(|(_, known)| *known)
                .map(|(at, _)| at)
        };
        let mut tried = vec![0];
        tried.extend(&self.distances);
        if self.distances.len() >= DISTANCES_MAX || known_at(&tried).is_some() {
            return;
        }
        let step = if len <= EVERY_BYTE_LEN_MAX {
            1
        } else {
            STEP_LEN
        };
        let all: Vec<usize> = (0..len).step_by(step).collect();
        self.distances.extend(known_at(&all));
    }
}

/// The first byte from `at` on that is not in a hole.
fn next_data(content: &dyn ImageSource, mut at: u64) -> Result<Option<u64>, SourceError> {
    while at < content.len() {
        let extent = content.extent_at(at)?;
        if extent.kind == ExtentKind::Data {
            return Ok(Some(at));
        }
        at = extent.end_offset();
    }
    Ok(None)
}
