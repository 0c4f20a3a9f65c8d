//! Disks for clients of NBD, the network block device protocol: qemu, libnbd, the Linux kernel,
//! libguestfs.
//!
//! [`NbdServer`] offers the devices of an [`Exports`](vellum_core::device::Exports) on Unix and TCP
//! sockets, with TLS or without.
//!
//! From below: `wire` is the messages as bytes; `negotiation` and `transmission` decide what
//! follows from them, without socket, thread or clock; `handshake`, `execution` and `reads` do it,
//! for a socket as for memory (`in_memory`); `transport` is one socket, plain or under TLS;
//! `entrance` takes a client through its handshake, `connection` is its threads, `client_log` its
//! lines in the log; `clients` is what they share, `server` all of them, from the first to a
//! bounded end, `seats` their limits.
//!
//! # Limits
//!
//! A handshake has a deadline, and the numbers of handshakes, clients and sockets are bounded
//! ([`ServerOptions`], `seats`). An idle client costs a thread and some tens of KiB; requests of
//! more than 64 KiB share a pool of buffers among all clients (`buffers`), and go in small pieces
//! when those are taken.
//!
//! # Writers
//!
//! One client writes to an export at a time (`writers`), unless its device says that it is made for
//! several ([`Device::is_shareable`](vellum_core::device::Device::is_shareable)). A client is a
//! process behind a Unix socket, and an address behind TCP: guests of one host that connect over
//! TCP look alike.
//!
//! # What this does not do
//!
//! No oldstyle handshake, no resize, no BLOCK_STATUS with a payload. It takes no TLS older than 1.2
//! and no password. TLS covers all sockets of a server or none.

mod buffers;
mod client_log;
mod clients;
mod connection;
mod entrance;
mod execution;
mod handshake;
mod in_memory;
mod key_kind;
mod negotiation;
mod reads;
mod seats;
mod server;
mod single;
mod tls;
mod transmission;
mod transport;
mod wire;

pub use client_log::Report;
pub use in_memory::replies_to;
pub use server::{LastClientWait, NbdServer, ServerOptions, StoppedServer};
pub use single::SingleExport;
pub use tls::{ClientCertificates, TlsIdentity};
