//! Having the kernel forget mapped pages that an NBD client has written since.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use super::ServiceEnd;
use super::handles::Handles;
use crate::change_board::ChangeBoard;

/// The time between looks whether the mount is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// The time between two notices: a guest that writes without a pause must not keep a core busy.
const PAUSE: Duration = Duration::from_millis(1);

/// Tells the kernel what was written to disks whose files are open, until the mount has ended. In a
/// thread of its own: the kernel may first have pages written back, and waits for that.
pub(super) fn start_invalidation(
    board: Arc<ChangeBoard>,
    handles: Arc<Handles>,
    notifier: Notifier,
    served: Arc<ServiceEnd>,
) -> std::io::Result<()> {
    let work = move || {
        while !served.wait_until_ended(Duration::ZERO) {
            for (device, range) in board.take_writes(LOOK_INTERVAL) {
                let place = i64::try_from(range.start).unwrap_or(i64::MAX);
                let len = i64::try_from(range.end - range.start).unwrap_or(i64::MAX);
                for inode in handles.inodes_of_device(device) {
                    // A kernel that has cached nothing of it, or is unmounting, has nothing to
                    // forget.
                    let _ = notifier.inval_inode(INodeNo(inode), place, len);
                }
                thread::sleep(PAUSE);
            }
        }
    };
    thread::Builder::new()
        .name("fuse-invalidate".to_owned())
        .spawn(work)
        .map(drop)
}
