//! Transfer of content between this store and others, by whatever means: nodes as of one point in
//! time go out, and a set of nodes comes in as one commit.
//!
//! `moment` holds several images still, with their maps; `supply` hands out their chunks as they
//! are stored; `receipt` takes chunks and maps and gives them names in one batch. It knows no
//! repository, file or network, and trusts nothing that comes in: a chunk is held against its name,
//! a map is clipped to its disk.

mod moment;
mod readable;
mod receipt;
mod supply;
#[cfg(test)]
mod tests;
mod token;

pub use moment::{Moment, RelativeMap};
pub use receipt::{FollowedImage, Receipt, VerifiedChunks};
pub use supply::{PlannedFrame, SuppliedFrame, Supply};
