//! Exports of a store as servers offer them: every image and snapshot by name, its description, and
//! the disk behind it.
//!
//! [`vellum_core::tree::Attachment`] decides what a name stands for; `attach` knows who may write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vellum_core::device::{
    Device, DeviceError, ExportInfo, ExportSpace, Exports, Intent, OpenError,
};
use vellum_core::tree::{Attachment, Image, Mode, NodeRef, PlanError, ScratchUse, Tree};
use vellum_core::units::ImageId;

use crate::attach::{AttachIntent, OwnerId};
use crate::device::DiskDevice;
use crate::error::StoreError;
use crate::late::LateDisks;
use crate::limits;
use crate::store::{Access, Store};

/// Owners are told apart by this, in one process.
static NEXT_OWNER: AtomicU64 = AtomicU64::new(0);

/// All images (`IMAGE`, and `IMAGE+WHO` for attachments of a multiattach image) and snapshots
/// (`IMAGE@SNAPSHOT`) of a store. What one such object attaches, all its clients share; another
/// such object cannot write to it meanwhile.
pub struct StoreExports {
    store: Store,
    owner: OwnerId,
    /// Disks that are attached when they are written.
    late: LateDisks,
}

impl Store {
    /// Its images and snapshots for servers. Servers that are to share attached disks share the
    /// object.
    #[must_use]
    pub fn exports(&self) -> StoreExports {
        StoreExports {
            store: self.clone(),
            owner: OwnerId(NEXT_OWNER.fetch_add(1, Ordering::Relaxed)),
            late: LateDisks::default(),
        }
    }
}

impl Exports for StoreExports {
    fn list_exports(&self) -> Result<Vec<ExportInfo>, DeviceError> {
        let tree = self.store.tree();
        let offered = tree.all_nodes().filter(|node| !is_scratch(&tree, *node));
        let described = |node| {
            let name = tree.display_name(node);
            match tree.resolve_attachment(&name) {
                Some(Attachment::Scratch(using)) => self.describe_scratch(&tree, using, name),
                _ => self.describe_export(&tree, node, name),
            }
        };
        Ok(offered.filter_map(described).collect())
    }

    fn export_info(&self, name: &str) -> Result<ExportInfo, OpenError> {
        let tree = self.store.tree();
        let name = whole_name(&tree, name);
        let unknown = || OpenError::Unknown(name.clone());
        match tree.resolve_attachment(&name).ok_or_else(unknown)? {
            Attachment::Read(node) => self.describe_export(&tree, node, name.clone()),
            Attachment::Write(image) => {
                self.describe_export(&tree, NodeRef::Image(image), name.clone())
            }
            Attachment::Scratch(using) => self.describe_scratch(&tree, using, name.clone()),
            Attachment::NewChild { base, name: child } => self
                .describe_export(&tree, NodeRef::Image(base), child.to_string())
                .map(|base| ExportInfo {
                    read_only: self.is_read_only(),
                    description: "attachment of a multiattach image, not made yet".to_owned(),
                    ..base
                }),
        }
        .ok_or_else(unknown)
    }

    fn open_export(&self, name: &str, intent: Intent) -> Result<Arc<dyn Device>, OpenError> {
        let (name, attachment) = {
            let tree = self.store.tree();
            let name = whole_name(&tree, name);
            let attachment = tree.resolve_attachment(&name);
            (name, attachment)
        };
        let attachment = attachment.ok_or_else(|| OpenError::Unknown(name.clone()))?;
        self.open_attachment(attachment, intent)
            .map_err(|error| open_refusal(&name, error))
    }

    /// That of the file system which the store is in.
    fn space_info(&self) -> Result<ExportSpace, DeviceError> {
        limits::file_system_space(self.store.dir())
            .map_err(|error| DeviceError::Io(error.to_string()))
    }

    fn revision(&self) -> u64 {
        self.store.tree().revision()
    }
}

impl StoreExports {
    fn is_read_only(&self) -> bool {
        self.store.access_mode() == Access::ReadOnly
    }

    fn open_attachment(
        &self,
        attachment: Attachment,
        intent: Intent,
    ) -> Result<Arc<dyn Device>, StoreError> {
        match attachment {
            attachment if intent == Intent::Look => self.open_to_look(attachment),
            Attachment::Read(node) => self.open_read(node),
            Attachment::Write(image) if self.is_read_only() => {
                self.open_read(NodeRef::Image(image))
            }
            attachment if self.is_read_only() => self.open_to_look(attachment),
            Attachment::Write(image) => self.open_write(image, intent),
            Attachment::Scratch(using) => {
                Ok(self.late.scratch_disk(&self.store, self.owner, using)?)
            }
            Attachment::NewChild { base, name } => {
                Ok(self.late.child_disk(&self.store, self.owner, base, name)?)
            }
        }
    }

    /// The disk as it was flushed last. Who looks is no guest: nothing is attached, made, reset or
    /// sealed for them.
    fn open_to_look(&self, attachment: Attachment) -> Result<Arc<dyn Device>, StoreError> {
        let store = &self.store;
        let device = match attachment {
            Attachment::Read(node) => DiskDevice::open_node(store, node),
            Attachment::Write(image) => DiskDevice::open_node(store, NodeRef::Image(image)),
            Attachment::Scratch(using) => {
                let view = store.tree().scratch_view(using)?;
                match view.node {
                    node if node == NodeRef::Image(using.base) => {
                        DiskDevice::open_base(store, node)
                    }
                    node => DiskDevice::open_node(store, node),
                }
            }
            Attachment::NewChild { base, .. } => DiskDevice::open_base(store, NodeRef::Image(base)),
        };
        Ok(Arc::new(device?))
    }

    fn open_write(&self, image: ImageId, intent: Intent) -> Result<Arc<dyn Device>, StoreError> {
        let to = if intent == Intent::Read {
            AttachIntent::Read
        } else {
            AttachIntent::Write
        };
        Ok(self.store.attach_disk(image, self.owner, to)?)
    }

    /// An image that stands still is read from the sealed layer below it: should it get another
    /// mode, and be written, the reader goes on seeing what it saw.
    fn open_read(&self, node: NodeRef) -> Result<Arc<dyn Device>, StoreError> {
        if self.is_read_only() || matches!(node, NodeRef::Snapshot(..)) {
            return Ok(Arc::new(DiskDevice::open_node(&self.store, node)?));
        }
        let disk = self.store.sealed_base(node)?;
        Ok(Arc::new(DiskDevice::of_disk(
            &self.store,
            node.image_id(),
            disk,
        )))
    }

    /// An immutable image as the guest of `using` sees it.
    fn describe_scratch(&self, tree: &Tree, using: ScratchUse, name: String) -> Option<ExportInfo> {
        let shown = tree.scratch_view(using).ok()?.node;
        let attached = tree.scratch_for(using);
        let waiting_ns = attached.and_then(|scratch| self.store.attached_changed_ns(scratch.id));
        let shown = self.describe_export(tree, shown, name.clone())?;
        let image = self.describe_export(tree, NodeRef::Image(using.base), name)?;
        Some(ExportInfo {
            len: shown.len,
            changed_ns: waiting_ns.unwrap_or(shown.changed_ns),
            ..image
        })
    }

    fn describe_export(&self, tree: &Tree, node: NodeRef, name: String) -> Option<ExportInfo> {
        let layer = tree.layer_of(node)?;
        let (read_only, description) = match node {
            NodeRef::Snapshot(..) => (true, "snapshot".to_owned()),
            NodeRef::Image(image) => describe_image(tree.image(image)?),
        };
        let read_only = read_only || self.is_read_only();
        // Writes that wait to be flushed are content as well.
        let waiting_ns = match node {
            NodeRef::Image(image) => self.store.attached_changed_ns(image),
            NodeRef::Snapshot(..) => None,
        };
        Some(ExportInfo {
            name,
            len: layer.len,
            read_only,
            changed_ns: waiting_ns.unwrap_or(layer.changed_ns),
            description,
        })
    }
}

/// Tells if an image is read-only, and describes it for people.
fn describe_image(image: &Image) -> (bool, String) {
    let (read_only, description) = match image.mode {
        Mode::Normal => (false, "image"),
        Mode::Writethrough => (false, "writethrough image"),
        Mode::Shareable => (false, "shareable image"),
        Mode::Readonly => (true, "readonly image"),
        Mode::Immutable { autoreset: true } => (
            false,
            "immutable image; what is written goes when its guest is switched on anew",
        ),
        Mode::Immutable { autoreset: false } => (
            false,
            "immutable image; what is written stays until it is reset",
        ),
        Mode::Multiattach => (
            true,
            "multiattach image; add +NAME for an attachment of its own",
        ),
    };
    (read_only, description.to_owned())
}

/// `name`, or the only image's if it is empty.
fn whole_name(tree: &Tree, name: &str) -> String {
    let mut images = tree.images().filter(|image| image.scratch_of.is_none());
    match (name, images.next(), images.next()) {
        ("", Some(only), None) => only.name.to_string(),
        _ => name.to_owned(),
    }
}

fn is_scratch(tree: &Tree, node: NodeRef) -> bool {
    matches!(
        node,
        NodeRef::Image(image)
            if tree.image(image).is_some_and(|image| image.scratch_of.is_some())
    )
}

/// Error that a client gets.
fn open_refusal(name: &str, error: StoreError) -> OpenError {
    match error {
        StoreError::Plan(PlanError::Gone) => OpenError::Unknown(name.to_owned()),
        StoreError::Attached(_)
        | StoreError::Busy(_)
        | StoreError::Plan(_)
        | StoreError::ReadOnly => OpenError::Refused(error.to_string()),
        other => OpenError::Device(other.into()),
    }
}
