//! Simulated loss of power: computes, from the log of every change that a process made to a folder,
//! the folders that it might find again.
//!
//! `recorder/recorder.c` is preloaded into a real process and writes the log; [`log`] reads it;
//! [`disk`] says what a crash at one point of it may leave. The tests run real stores under the
//! recorder, with all of their database, and open what is left.
//!
//! # What this does not do
//!
//! It takes the file system's word: a disk that lies about a flush, or returns other bytes than
//! were written, is not its matter. Nor is the loss of a process alone: there the kernel keeps
//! everything.
#![forbid(unsafe_code)]

pub mod block;
pub mod block_device;
pub mod disk;
pub mod file_system;
pub mod log;
pub mod soak;
