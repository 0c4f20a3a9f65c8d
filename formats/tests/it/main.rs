//! Image files that other programs made or read: what is written and read here is what they mean.

mod codecs;
mod disk;
mod fidelity;
mod files;
mod foreign;
mod qemu;
mod speed;
mod states;
