//! Transfer of content between this store and others, by whatever means: nodes as of one point in
//! time go out, and a set of nodes comes in as one commit.
//!
//! `point_in_time` holds several images still, with their maps; `frame_export` hands out their
//! chunks as they are stored; `receive_transaction` takes chunks and maps and gives them names in
//! one batch. It knows no repository, file or network, and trusts nothing that comes in: a chunk is
//! held against its name, a map is clipped to its disk.

mod frame_export;
mod point_in_time;
mod readable;
mod receive_transaction;
#[cfg(test)]
mod tests;
mod token;

pub use frame_export::{FrameExport, PlannedFrame, SuppliedFrame};
pub use point_in_time::{PointInTime, RelativeMap};
pub use receive_transaction::{FollowedImage, ReceiveTransaction, VerifiedChunks};
