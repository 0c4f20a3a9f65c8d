//! Images of another length: children that are shorter than their parent, and disks that grow and shrink.
//!
//! The rule that makes both simple: no map says anything past its disk's end, and in the last chunk the bytes past the end are zero.

use vellum_core::name::Name;
use vellum_core::tree::Node;
use vellum_core::units::ImageId;

use crate::error::StoreError;
use crate::store::Store;

impl Store {
    /// A new image that starts as `parent` is now, at once; of its length, or of `len` bytes.
    pub fn create_child(&self, name: &Name, parent: Node, len: Option<u64>) -> Result<Node, StoreError> {
        let _ = (name, parent, len);
        todo!()
    }

    /// Gives `image` another length. What is cut off is gone, even if it grows again; what is added is zero.
    pub fn resize(&self, image: ImageId, len: u64, may_shrink: bool) -> Result<(), StoreError> {
        let _ = (image, len, may_shrink);
        todo!()
    }
}
