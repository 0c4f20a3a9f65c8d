//! Clients that the tests and benches of several crates drive the program with. Never shipped.
#![forbid(unsafe_code)]

pub mod certificates;
pub mod front_end;
