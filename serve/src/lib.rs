//! Offering block devices to guests and programs: over NBD and vhost-user, and as files through
//! FUSE.
//!
//! The server offers a [`vellum_core::device::Exports`]: this crate knows no store.
#![forbid(unsafe_code)]

#[cfg(test)]
mod blank_device;
mod change_board;
mod error;
pub mod fuse;
pub mod nbd;
mod peer;
mod socket;
pub mod vhost_user;
mod writers;

pub use change_board::ChangeBoard;
pub use error::ServeError;
pub use writers::Writers;
