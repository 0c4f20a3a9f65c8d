//! Progress of background maintenance, which an open store keeps from one step to the next.

use vellum_core::units::ChunkId;

/// Progress of background maintenance.
#[derive(Debug, Default)]
pub(crate) struct MaintenanceState {
    /// Frames before this chunk are as they should be.
    pub(super) next: ChunkId,
    /// The id that the next new chunk had when there was nothing left to do.
    pub(super) seen: ChunkId,
}
