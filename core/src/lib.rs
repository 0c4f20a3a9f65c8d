//! The model of a disk image in Vellum, and its encoding as bytes: pure, with no files, clocks or
//! threads.
#![forbid(unsafe_code)]

pub mod change_map;
pub mod device;
pub mod difference;
pub mod frame;
pub mod guest;
pub mod hash;
pub mod id_set;
pub mod identity;
pub mod name;
pub mod name_maker;
pub mod outline;
pub mod page;
pub mod page_grid;
pub mod positions;
pub mod retention;
pub mod solid;
pub mod source;
pub mod stretches;
pub mod tree;
pub mod units;
pub mod wire;
