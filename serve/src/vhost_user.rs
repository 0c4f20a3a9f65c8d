//! Disks for virtual machines over vhost-user: the interface of QEMU, Cloud Hypervisor, crosvm and
//! Firecracker in which a guest's virtio-blk requests are read from its own memory, without a
//! socket for each of them.
//!
//! [`VhostUserServer`] keeps one Unix socket for each image in a folder. A VMM connects to it, says
//! where its guest's memory and queues are (crates `vhost` and `vhost-user-backend`, which know the
//! protocol, its shared memory and its events), and from then on the guest's requests come through
//! the queues.
//!
//! From below: `wire` is the device as the virtio specification has it in bytes (requests, their
//! results, the configuration space); `target` does a request on a device, for any reader and
//! writer in place of guest memory; `queue` takes requests out of a queue in order and puts their
//! results back; `backend` is the device as the crates call it; `server` is the sockets, the
//! connections and their end.
//!
//! # Order, and what survives
//!
//! Each queue has a thread, which does its requests one after another, in their order; a guest has
//! as many queues as it asks for, at most [`QUEUES_MAX`]. So the number of results in a queue says
//! which request is next: a VMM that reconnects after this process has died (`reconnect=1`) begins
//! there, and what was under way is done again. Nothing is lost, since a request without a result
//! was never answered, and repeating one is harmless: reads, writes and zeroes of the same bytes.
//!
//! # Writers
//!
//! One guest writes to an image at a time, whichever way it came: see [`Writers`](crate::Writers).
//! While another one writes, a device says that it can only be read.
//!
//! # Trust
//!
//! Only this user may connect. A VMM shares its memory with this process: one that cuts a shared
//! file short while it is used can end this process, as with every server of vhost-user. What a
//! *guest* puts into its queues cannot: see `queue`.
//!
//! # What this does not do
//!
//! No packed queues, no live migration of the device's state, no word to the guest when an image is
//! resized while it runs (the crates have no message for it): it sees the new size when it is
//! started the next time. The bytes behind an image's last whole sector of 512 are not shown.

mod backend;
mod queue;
mod server;
mod target;
mod wire;

pub use server::{VhostUserOptions, VhostUserServer};
pub use wire::QUEUES_MAX;
