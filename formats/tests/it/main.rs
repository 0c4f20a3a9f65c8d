//! Image files that other programs made, read as their makers meant them.

mod foreign;
