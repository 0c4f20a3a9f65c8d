//! Writers of a disk that several clients have entered: one client at a time, unless the disk is
//! made for several.
//!
//! NBD has no intent to write, so a client that enters is not asked for one. The first client that
//! writes becomes the disk's writer, and stays it until its last connection to the disk is gone.
//! Others may read meanwhile: a client that enters is told that the export is read-only, so that a
//! second guest fails when it is started, and one that had entered before has its writes refused.
//! With *takeover* the last one that writes becomes the writer, and the one before is refused from
//! then on: what a guest needs that moves from one host to another, where the second opens the disk
//! before the first has let go of it. In neither case do two clients write at once: a write holds
//! the gate of its disk, and another writer is named with the gate closed.
//!
//! A disk is known by its address in memory: all clients of an export share one device, and each of
//! them holds it for as long as it holds its [`WriteRight`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use vellum_core::device::Device;

use crate::peer::Peer;

/// The disks of a server that clients have entered, and who writes to each.
#[derive(Debug, Default)]
pub struct Writers {
    disks: Mutex<HashMap<usize, Arc<EnteredDisk>>>,
    takeover: bool,
}

#[derive(Debug, Default)]
struct EnteredDisk {
    /// Number of connections of each client.
    present: Mutex<HashMap<Peer, usize>>,
    /// Shared by writes while they go on.
    gate: RwLock<CurrentWriter>,
}

#[derive(Debug, Default)]
struct CurrentWriter {
    current: Option<Peer>,
    /// Those whose disk was taken over, and who have not left it.
    deposed: Vec<Peer>,
}

/// One connection's part in a disk, until dropped.
#[derive(Debug)]
pub(crate) struct WriteRight {
    writers: Arc<Writers>,
    disk: Arc<EnteredDisk>,
    key: usize,
    peer: Peer,
}

impl Writers {
    /// `takeover`: who writes last is the writer; otherwise who wrote first.
    pub(crate) fn new(takeover: bool) -> Self {
        Self {
            disks: Mutex::default(),
            takeover,
        }
    }

    /// Notes one more connection of `peer` to `device`, which the caller holds longer than what is
    /// returned.
    pub(crate) fn enter_disk(
        self: &Arc<Self>,
        device: &Arc<dyn Device>,
        peer: &Peer,
    ) -> WriteRight {
        let key = Arc::as_ptr(device).cast::<()>() as usize;
        let mut disks = self.lock_disks();
        let disk = Arc::clone(disks.entry(key).or_default());
        // Under the lock of all disks: who leaves last takes the disk off them.
        *disk.lock_present().entry(peer.clone()).or_default() += 1;
        drop(disks);
        WriteRight {
            writers: Arc::clone(self),
            disk,
            key,
            peer: peer.clone(),
        }
    }

    fn lock_disks(&self) -> MutexGuard<'_, HashMap<usize, Arc<EnteredDisk>>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EnteredDisk {
    fn lock_present(&self) -> MutexGuard<'_, HashMap<Peer, usize>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteRight {
    /// True if this client is the one that writes.
    pub(crate) fn is_writer(&self) -> bool {
        let gate = &self.disk.gate;
        let writer = gate.read().unwrap_or_else(PoisonError::into_inner);
        writer.current.as_ref() == Some(&self.peer)
    }

    /// The client that keeps this one from writing, if there is one now.
    pub(crate) fn blocking_writer(&self) -> Option<Peer> {
        let gate = &self.disk.gate;
        let writer = gate.read().unwrap_or_else(PoisonError::into_inner);
        writer.keeps_out(&self.peer, self.writers.takeover).cloned()
    }

    /// Does `act`, which writes, while no other client can; or returns the client that keeps this
    /// one from it.
    pub(crate) fn write_exclusively<T>(&self, act: impl FnOnce() -> T) -> Result<T, Peer> {
        let gate = &self.disk.gate;
        let shared = gate.read().unwrap_or_else(PoisonError::into_inner);
        if shared.current.as_ref() == Some(&self.peer) {
            return Ok(act());
        }
        drop(shared);
        let mut writer = gate.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = writer.keeps_out(&self.peer, self.writers.takeover) {
            return Err(holder.clone());
        }
        writer.take_over(&self.peer);
        // The gate stays closed for this one write: it is the first of many.
        Ok(act())
    }
}

impl CurrentWriter {
    /// The client because of which `peer` cannot write.
    fn keeps_out(&self, peer: &Peer, takeover: bool) -> Option<&Peer> {
        let other = self.current.as_ref().filter(|current| *current != peer)?;
        (!takeover || self.deposed.contains(peer)).then_some(other)
    }

    /// Makes `peer` the writer.
    fn take_over(&mut self, peer: &Peer) {
        self.deposed.retain(|deposed| deposed != peer);
        let before = self.current.replace(peer.clone());
        self.deposed.extend(before.filter(|before| before != peer));
    }

    /// Forgets `peer`, which has left.
    fn forget_peer(&mut self, peer: &Peer) {
        self.deposed.retain(|deposed| deposed != peer);
        self.current.take_if(|current| current == peer);
    }
}

impl Drop for WriteRight {
    fn drop(&mut self) {
        let mut disks = self.writers.lock_disks();
        let mut present = self.disk.lock_present();
        let is_last = match present.get_mut(&self.peer) {
            Some(1) => true,
            Some(count) => {
                *count -= 1;
                false
            }
            None => false,
        };
        if !is_last {
            return;
        }
        present.remove(&self.peer);
        if present.is_empty() {
            disks.remove(&self.key);
        }
        drop((present, disks));
        // Waits for the writes of others, so it holds nothing that they need.
        let gate = &self.disk.gate;
        gate.write()
            .unwrap_or_else(PoisonError::into_inner)
            .forget_peer(&self.peer);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use vellum_core::device::Device;

    use super::{Peer, Writers};
    use crate::blank_device::Blank;

    fn peer(last: u8) -> Peer {
        Peer::Machine(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    fn two_disks() -> [Arc<dyn Device>; 2] {
        // A device without bytes would have no address of its own, but for its counters.
        [Arc::new(Blank(0)), Arc::new(Blank(0))]
    }

    #[test]
    fn who_writes_first_writes_alone_until_its_last_connection_is_gone() {
        let ([disk, other_disk], writers) = (two_disks(), Arc::new(Writers::new(false)));
        let enter = |last| writers.enter_disk(&disk, &peer(last));
        let (first, again, second) = (enter(1), enter(1), enter(2));
        assert_eq!(second.blocking_writer(), None, "nobody has written");
        assert_eq!(first.write_exclusively(|| 5), Ok(5));
        assert_eq!(
            again.write_exclusively(|| 6),
            Ok(6),
            "one client, two connections"
        );
        assert_eq!(second.write_exclusively(|| 7), Err(peer(1)));
        assert_eq!(second.blocking_writer(), Some(peer(1)));
        assert_eq!(
            writers
                .enter_disk(&other_disk, &peer(2))
                .write_exclusively(|| 8),
            Ok(8)
        );
        drop(first);
        assert_eq!(second.write_exclusively(|| 7), Err(peer(1)));
        drop(again);
        assert_eq!(second.write_exclusively(|| 7), Ok(7));
        drop(second);
        assert!(writers.lock_disks().is_empty());
    }

    #[test]
    fn with_takeover_who_writes_last_writes_alone() {
        let ([disk, _], writers) = (two_disks(), Arc::new(Writers::new(true)));
        let (source, target) = (
            writers.enter_disk(&disk, &peer(1)),
            writers.enter_disk(&disk, &peer(2)),
        );
        assert_eq!(source.write_exclusively(|| ()), Ok(()));
        assert_eq!(target.blocking_writer(), None);
        assert_eq!(target.write_exclusively(|| ()), Ok(()));
        assert_eq!(source.write_exclusively(|| ()), Err(peer(2)), "no way back");
        assert_eq!(source.blocking_writer(), Some(peer(2)));
        drop(source);
        assert_eq!(
            target.write_exclusively(|| ()),
            Ok(()),
            "it takes nothing along"
        );
        let back = writers.enter_disk(&disk, &peer(1));
        assert_eq!(back.write_exclusively(|| ()), Ok(()), "moved back");
        assert_eq!(target.write_exclusively(|| ()), Err(peer(1)));
        drop(back);
        assert_eq!(
            target.write_exclusively(|| ()),
            Ok(()),
            "nobody else is there"
        );
    }
}
