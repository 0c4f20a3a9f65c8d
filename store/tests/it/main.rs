//! Integration tests of the store as its users see it, in one binary: each one links `RocksDB`.

mod concurrency;
mod content;
mod crash;
mod damage;
mod drive;
mod failing;
mod faults;
mod golden;
mod guest_oracle;
mod history;
mod live;
mod model;
mod modes;
mod parity;
mod qcow2_oracle;
mod repair;
mod scratch;
mod world;
