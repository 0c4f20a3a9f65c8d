//! Disks for whoever speaks NBD, the network block device protocol: qemu, libnbd, the Linux kernel,
//! libguestfs.
//!
//! [`Server`] offers the devices of an [`Exports`](vellum_core::device::Exports) on Unix and TCP
//! sockets, with TLS or without.
//!
//! From below: `wire` is the messages as bytes; `negotiation` and `transmission` decide what
//! follows from them, without socket, thread or clock; `handshake` and `execution` do it, for a
//! socket as for memory (`dialogue`); `transport` is one socket, plain or under TLS; `connection`
//! is one client's threads; `server` is all of them, from the first to a bounded end.
//!
//! # Limits
//!
//! A handshake has a deadline, and the number of clients is bounded ([`Options`]). An idle client
//! costs a thread and some tens of KiB; requests of more than 64 KiB share 256 MiB of buffers among
//! all clients (`buffers`), and go in small pieces when those are taken.
//!
//! # What this does not do
//!
//! No oldstyle handshake, no resize, no BLOCK_STATUS with a payload. It takes no TLS older than 1.2
//! and no password. TLS covers all sockets of a server or none.

mod buffers;
mod connection;
mod dialogue;
mod execution;
mod handshake;
mod negotiation;
mod server;
mod single;
mod socket;
mod tls;
mod transmission;
mod transport;
mod wire;

pub use dialogue::dialogue;
pub use server::{Left, Options, ServeError, Server, Stopped};
pub use single::SingleExport;
pub use tls::{ClientCertificates, Identity};
