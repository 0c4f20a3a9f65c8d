//! Offering block devices to guests and programs: over NBD, and as files through FUSE.
//!
//! The server offers a [`vellum_core::device::Exports`]: this crate knows no store.
#![forbid(unsafe_code)]

#[cfg(test)]
mod blank_device;
mod change_board;
pub mod fuse;
pub mod nbd;

pub use change_board::ChangeBoard;
