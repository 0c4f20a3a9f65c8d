//! The store as its users see it, in one binary: each one links RocksDB.

mod content;
mod drive;
mod model;
mod qcow2_oracle;
mod scratch;
mod world;
