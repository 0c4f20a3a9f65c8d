//! Keeps disk images: chunks once, layers as maps, names last.
//!
//! [`Store`] is the entry point. Behind it, `chunks` keeps chunk content by id, `layer_resolver`
//! resolves the layer maps, and `disk` reads through both; each other file is named after the one
//! operation that it holds. `RocksDB` is known to `database` alone.
//!
//! # What this does not do
//!
//! It formats nothing for people, serves no network, and knows no image file format but through
//! [`vellum_core::source::ImageSource`].
#![forbid(unsafe_code)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("lengths are cast to usize all over: this is a program for 64-bit machines");

// Tests that are shared with other crates name this one as those do.
#[cfg(test)]
extern crate self as vellum_store;

mod atomic_file;
mod attach;
mod background_sync;
mod baseless_image;
mod chain_export;
mod check;
mod chunks;
mod clock;
pub mod codec;
mod collect;
mod companions;
mod creation;
#[cfg(test)]
mod damage;
mod database;
mod destination;
mod device;
mod disk;
mod disk_source;
mod error;
mod export;
mod exports;
mod file_source;
mod folder;
mod free_space;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod heal_tests;
mod healing;
mod identity;
mod image_file;
mod image_input;
mod image_writer;
mod import;
mod keys;
mod late;
mod layer_resolver;
mod layer_writer;
mod limits;
mod live;
mod logs;
mod machines;
mod maps;
pub mod measure;
mod mirrored_records;
#[cfg(test)]
mod model;
mod new_folder;
mod opening;
pub mod parity;
mod protection;
mod quarantine;
pub mod records;
mod repair;
pub mod report;
mod reserve;
mod resize;
mod restore;
mod scrub;
mod sequence_detector;
mod sizes;
mod sources;
mod stats;
mod store;
mod stored_records;
pub mod transfer;
mod usage_history;
mod watch;
mod write_buffer;

pub use atomic_file::{AtomicFile, NewFileMode, write_whole_file};
pub use chain_export::{StateFile, WrittenState};
pub use check::{CheckFinding, CheckOptions, CheckReport};
pub use chunks::{ChunkSource, Notices, WantedChunks, WantedPage};
pub use collect::{
    CollectOptions, CollectReport, DeepOptions, DeepReport, MaintenanceReport, Shortage,
};
pub use companions::FolderCompanions;
pub use destination::{Destination, FilePlace, open_device, open_stream};
pub use device::DiskDevice;
pub use disk::{Disk, DiskRun, Hole};
pub use disk_source::{DiskSource, content_identity};
pub use error::is_full as disk_is_full;
pub use error::{Damage, StoreError};
pub use export::{ExportReport, ExportTarget, Unreadable};
pub use exports::StoreExports;
pub use file_source::FileSource;
pub use folder::FORMAT as STORE_FORMAT;
pub use healing::{KnownDamage, SourceGuard};
pub use image_file::{ImageFile, contained_disks};
pub use image_input::ImageInput;
pub use image_writer::{ImageWriting, carries_identity};
pub use import::{
    BuiltForest, ChainFinder, ChainedFile, ForestLayer, ImportOptions, ImportReport, ImportRequest,
    ImportTarget, LayerForest, LayerReport, description_in_archive,
};
pub use live::LiveDisk;
pub use maps::{MapEntry, RebaseMode};
pub use new_folder::NewFolder;
pub use protection::heal_closed_store;
pub use records::{Compression, StoreParameters};
pub use repair::{RepairOptions, RepairReport};
pub use scrub::{SCRUB_ROUND, ScrubOptions, ScrubReport, ScrubStatus};
pub use sources::{
    ImageFileSource, OtherStoreSource, SOURCES_MAX, SourceEntry, SourceKind, SourceSecret,
};
pub use stats::Stats;
pub use store::{Access, Store};
pub use watch::{Progress, Unwatched, Watch};
