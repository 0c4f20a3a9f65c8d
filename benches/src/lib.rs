//! Shared parts of the benches: random disks, and stores in temporary folders.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use vellum_core::name::Name;
use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
use vellum_core::tree::NodeRef;
use vellum_core::units::ImageId;
use vellum_store::{
    Access, ImageInput, ImportRequest, ImportTarget, LiveDisk, Store, StoreParameters, Unwatched,
};

/// A disk in memory.
pub struct MemoryDisk(pub Vec<u8>);

impl MemoryDisk {
    /// `len` bytes that compress to about half: every second 64 bytes are noise.
    #[must_use]
    pub fn half_noise(len: usize, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; len];
        bytes
            .chunks_mut(128)
            .for_each(|pair| random.fill(&mut pair[..64]));
        Self(bytes)
    }
}

impl ImageSource for MemoryDisk {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        Ok(Extent {
            start: offset,
            len: self.len() - offset,
            kind: ExtentKind::Data,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let start = usize::try_from(offset).expect("a disk in memory has a place in memory");
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }
}

/// A new store in `dir`, opened.
#[must_use]
pub fn new_store(dir: &Path) -> Store {
    Store::init_dir(dir, StoreParameters::DEFAULT).expect("a temporary folder takes a store");
    Store::open_dir(dir, Access::ReadWrite, "bench").expect("a new store opens")
}

/// Imports `input` as a new image.
#[must_use]
pub fn import(store: &Store, input: ImageInput, text: &str) -> ImageId {
    let request = ImportRequest {
        target: ImportTarget::New {
            name: name(text),
            parent: None,
        },
        snapshot: None,
    };
    store
        .import(input, &request, &Unwatched)
        .expect("a sound source is imported")
        .node
        .image_id()
}

/// `text` as a name.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).expect("benches use valid names")
}

/// An image of `len` bytes with `depth` layers, each of which wrote one chunk at a place of chance.
#[must_use]
pub fn deep_image(store: &Store, text: &str, len: u64, depth: u64) -> NodeRef {
    let node = store
        .create_image(&name(text), len)
        .expect("a name that is free");
    drop(deepen(store, node.image_id(), depth));
    node
}

/// Writes one chunk at a place of chance into each of `depth` layers of `image`, the last of which
/// stays open for writing.
#[must_use]
pub fn deepen(store: &Store, image: ImageId, depth: u64) -> LiveDisk {
    let mut random = fastrand::Rng::with_seed(depth);
    let live = store.open_live(image).expect("nobody else writes");
    for layer in 0..depth {
        let mut chunk = [0; 4096];
        random.fill(&mut chunk);
        live.write_at(&chunk, random.u64(..live.len() / 4096) * 4096)
            .expect("the place is inside");
        live.flush().expect("there is room");
        if layer + 1 < depth {
            store
                .take_snapshot(image, &name(&format!("s{layer}")))
                .expect("a name that is free");
        }
    }
    live
}

/// The duration of `work`.
pub fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// The peak of this process's memory, as the kernel counts it.
#[must_use]
pub fn peak_memory_kib() -> u64 {
    let status =
        std::fs::read_to_string("/proc/self/status").expect("Linux tells a process about itself");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .expect("the peak is among it")
}

/// Bytes on disk, as `du` counts.
#[must_use]
pub fn disk_usage(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir)
        .expect("a store's folder")
        .map(|entry| entry.expect("it can be read"));
    let len = |entry: fs::DirEntry| {
        let metadata = entry.metadata().expect("nobody else is there");
        if metadata.is_dir() {
            disk_usage(&entry.path())
        } else {
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
        }
    };
    entries.map(len).sum()
}
