//! Plans the record of a push: which points are new, and which content each new one is best
//! relative to. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use vellum_core::identity::{ContentId, StoreId};
use vellum_core::tree::{Image, Layer, NodeRef, Tree};
use vellum_core::units::{ImageId, LayerId, MachineId};

use crate::error::BackupError;
use crate::journal::State;
use crate::record::{self, Description, Point, RETURNS_NOW, SnapshotName};
use crate::session::Writer;
use crate::wording::{base64, mode_text};

const POINT_CONTEXT: &str = "vellum 2026-11 repository point v1";

/// The images and machines to push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushSelection {
    /// All images with their snapshots, and all machines.
    All,
    /// Images with all their snapshots and their present state, and machines with all their disks.
    Some {
        /// The images.
        images: Vec<ImageId>,
        /// The machines.
        machines: Vec<MachineId>,
    },
    /// Exactly these.
    Nodes(Vec<NodeRef>),
}

/// The base of a content's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// No base.
    None,
    /// A layer below it here, whose content the repository has, or will have by then.
    Layer(LayerId, ContentId),
    /// A content of the repository that is not below it here; `common` is below both.
    Content {
        content: ContentId,
        common: Option<LayerId>,
    },
}

/// A content that the repository does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewContent {
    pub(super) layer: LayerId,
    pub(super) content: ContentId,
    pub(super) base: Base,
}

/// The nodes that `selection` means, and the machines.
pub(super) fn nodes(tree: &Tree, selection: &PushSelection) -> (Vec<NodeRef>, Vec<MachineId>) {
    let own = |image: &&Image| image.scratch_of.is_none();
    let (images, machines): (BTreeSet<ImageId>, Vec<MachineId>) = match selection {
        PushSelection::Nodes(nodes) => return (nodes.clone(), Vec::new()),
        PushSelection::All => (
            tree.images().filter(own).map(|image| image.id).collect(),
            tree.machines().iter().map(|m| m.id).collect(),
        ),
        PushSelection::Some { images, machines } => {
            let disks = machines.iter().flat_map(|id| {
                let disks = tree
                    .machines()
                    .get(*id)
                    .map(|machine| machine.disks.clone())
                    .unwrap_or_default();
                let kept = tree
                    .machines()
                    .snapshots_of(*id)
                    .flat_map(|snapshot| snapshot.disks.iter().map(|disk| disk.image));
                disks.into_iter().chain(kept.collect::<Vec<_>>())
            });
            (
                images.iter().copied().chain(disks).collect(),
                machines.clone(),
            )
        }
    };
    let of_image = |id: ImageId| {
        let snapshots = tree
            .snapshots_of(id)
            .map(move |snapshot| NodeRef::Snapshot(id, snapshot.serial));
        snapshots.chain([NodeRef::Image(id)])
    };
    (images.into_iter().flat_map(of_image).collect(), machines)
}

/// The point that `node` is, showing `layer`.
pub(super) fn point(
    store: StoreId,
    tree: &Tree,
    node: NodeRef,
    layer: &Layer,
    writer: &Writer,
) -> Option<Point> {
    let (image, content) = (tree.image(node.image_id())?, layer.content?);
    let identity = format!("{store}-{}", image.id);
    let snapshot = match node {
        NodeRef::Image(_) => None,
        NodeRef::Snapshot(id, serial) => Some(tree.snapshot(id, serial)?),
    };
    let marks = snapshot.map_or(&image.marks, |snapshot| &snapshot.marks);
    Some(Point {
        id: point_id(&identity, snapshot.map(|snapshot| snapshot.serial), content),
        image: identity,
        name: image.name.to_string(),
        host: writer.host.clone(),
        snapshot: snapshot.map(|snapshot| SnapshotName {
            name: snapshot.name.to_string(),
            serial: snapshot.serial,
        }),
        content: content.to_string(),
        len: layer.len,
        mode: mode_text(image.mode).to_owned(),
        origin: image.origin.map(|origin| format!("{store}-{origin}")),
        time_ms: snapshot.map_or(writer.time_ms, |snapshot| snapshot.created_ms),
        tags: marks.tags.iter().map(ToString::to_string).collect(),
        pinned: marks.pinned,
        description: marks.annotation.description().to_owned(),
        properties: marks.annotation.property_texts(),
    })
}

/// The new descriptions of points that the repository has: `known` are those that the store has as
/// well, as it describes them, `new` those that this push brings, `withheld` those that it does not
/// bring. A state that an image has left is called as the image is now; it keeps its tags, and its
/// pin until the image has none.
pub(super) fn descriptions(
    state: &State,
    known: &[Point],
    new: &[Point],
    withheld: &[Point],
) -> Vec<Description> {
    let present: HashMap<&str, &Point> = known
        .iter()
        .chain(new)
        .chain(withheld)
        .map(|point| (point.id.as_str(), point))
        .collect();
    let own = |point: &&Point| point.snapshot.is_none();
    let images: HashMap<&str, &Point> = present
        .values()
        .copied()
        .filter(own)
        .map(|point| (point.image.as_str(), point))
        .collect();
    let newest = state.newest_with(new);
    let mut descriptions = Vec::new();
    for point in state.points() {
        let now = match (
            present.get(point.id.as_str()),
            images.get(point.image.as_str()),
        ) {
            (Some(now), _) => shown_again(state, point, now, newest[point.image.as_str()]),
            (None, Some(image)) => Description {
                name: image.name.clone(),
                mode: image.mode.clone(),
                origin: image.origin.clone(),
                pinned: point.pinned && (point.snapshot.is_some() || image.pinned),
                ..state.description(point)
            },
            (None, None) => continue,
        };
        descriptions.extend(Some(now).filter(|now| *now != state.description(point)));
    }
    descriptions
}

/// The description of a point that is pushed again as `now`. An image that went back to an older
/// state than its `newest`, be it a snapshot that comes with this push, shows that one last.
fn shown_again(state: &State, point: &Point, now: &Point, newest: &Point) -> Description {
    let known = state.description(point);
    let has_returned = point.snapshot.is_none() && newest.id != point.id;
    let (time_ms, returned) = if has_returned {
        (now.time_ms, Some(RETURNS_NOW))
    } else {
        (known.time_ms, known.returned)
    };
    Description {
        time_ms,
        returned,
        ..Description::of(now)
    }
}

/// The same for the same content of the same image or snapshot, whenever it is pushed.
fn point_id(image: &str, serial: Option<u64>, content: ContentId) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(POINT_CONTEXT);
    let serial = serial.map_or_else(String::new, |serial| serial.to_string());
    hasher
        .update(image.as_bytes())
        .update(b"@")
        .update(serial.as_bytes())
        .update(b"=")
        .update(&content.0);
    crate::hexadecimal::write(&hasher.finalize().as_bytes()[..16])
}

/// A machine as a record describes it. `configuration` gives the bytes of a configuration file.
pub(super) fn machine(
    store: StoreId,
    tree: &Tree,
    id: MachineId,
    configuration: &dyn Fn(vellum_core::tree::Configuration) -> Result<Vec<u8>, BackupError>,
) -> Result<Option<record::Machine>, BackupError> {
    let Some(machine) = tree.machines().get(id) else {
        return Ok(None);
    };
    let file = |file: Option<vellum_core::tree::Configuration>| {
        file.map(|file| Ok::<_, BackupError>(base64(&configuration(file)?)))
            .transpose()
    };
    let identity = |id: ImageId| format!("{store}-{id}");
    let snapshot = |snapshot: &vellum_core::tree::VirtualMachineSnapshot| {
        let disk = |disk: &vellum_core::tree::KeptDisk| {
            (
                identity(disk.image),
                mode_text(disk.mode).to_owned(),
                disk.snapshot,
            )
        };
        Ok(record::MachineSnapshot {
            name: snapshot.name.to_string(),
            time_ms: snapshot.created_ms,
            disks: snapshot.disks.iter().map(disk).collect(),
            configuration: file(snapshot.configuration)?,
        })
    };
    Ok(Some(record::Machine {
        id: format!("{store}-{id}"),
        name: machine.name.to_string(),
        disks: machine.disks.iter().map(|disk| identity(*disk)).collect(),
        configuration: file(machine.configuration)?,
        snapshots: tree
            .machines()
            .snapshots_of(id)
            .map(snapshot)
            .collect::<Result<_, BackupError>>()?,
    }))
}

/// The contents of `points` (with their layers) of which the repository does not have the whole,
/// each after its base. Only what `is_there` becomes a base.
pub(super) fn new_contents(
    tree: &Tree,
    state: &State,
    points: &[(Point, LayerId)],
    is_there: &dyn Fn(ContentId) -> bool,
) -> Vec<NewContent> {
    let content_of = |layer: LayerId| tree.layer(layer).and_then(|layer| layer.content);
    let mut layers: BTreeMap<LayerId, &Point> = BTreeMap::new();
    points
        .iter()
        .rev()
        .filter(|(_, layer)| content_of(*layer).is_some_and(|content| !is_there(content)))
        .for_each(|(point, layer)| {
            layers.insert(*layer, point);
        });
    let depths = depths(tree, layers.keys().copied());
    let mut order: Vec<(LayerId, &Point)> = layers.into_iter().collect();
    order.sort_by_key(|(layer, _)| depths[layer]);
    let last = last_states(state);
    let (mut new, mut coming) = (Vec::with_capacity(order.len()), HashSet::new());
    for (layer, point) in order {
        let Some(content) = content_of(layer) else {
            continue;
        };
        let is_known = |content: ContentId| is_there(content) || coming.contains(&content);
        let below = tree.chain_from(layer).skip(1).find_map(|below| {
            Some((
                below.id,
                below.content.filter(|content| is_known(*content))?,
            ))
        });
        let last = last.get(point.image.as_str()).copied();
        let base = base(state, below, last.filter(|last| is_there(*last)));
        coming.insert(content);
        new.push(NewContent {
            layer,
            content,
            base,
        });
    }
    new
}

/// The nearer base: the layer `below`, or `last`, the content of the same image that was pushed
/// before, if that in turn is relative to the layer.
fn base(state: &State, below: Option<(LayerId, ContentId)>, last: Option<ContentId>) -> Base {
    match (below, last) {
        (None, None) => Base::None,
        (None, Some(content)) => Base::Content {
            content,
            common: None,
        },
        (Some((layer, own)), Some(content)) if content != own && stands_on(state, content, own) => {
            Base::Content {
                content,
                common: Some(layer),
            }
        }
        (Some((layer, own)), _) => Base::Layer(layer, own),
    }
}

fn stands_on(state: &State, content: ContentId, below: ContentId) -> bool {
    let below = below.to_string();
    state
        .chain(content)
        .iter()
        .any(|entry| entry.content.parent.as_deref() == Some(&below))
}

/// The newest state of each image that the repository has.
fn last_states(state: &State) -> HashMap<&str, ContentId> {
    let points = state.points_oldest_first().into_iter();
    let contents = points.filter_map(|point| {
        let content = ContentId::parse(&point.content)?;
        Some((point.image.as_str(), content))
    });
    contents.collect()
}

/// The number of layers below each of `layers`. Cost: every layer below them once.
fn depths(tree: &Tree, layers: impl Iterator<Item = LayerId>) -> HashMap<LayerId, usize> {
    let mut depths: HashMap<LayerId, usize> = HashMap::new();
    for top in layers {
        let new: Vec<LayerId> = tree
            .chain_from(top)
            .map(|layer| layer.id)
            .take_while(|layer| !depths.contains_key(layer))
            .collect();
        let below = new
            .last()
            .and_then(|last| tree.layer(*last)?.parent)
            .and_then(|parent| depths.get(&parent).copied());
        let lowest = below.map_or(0, |below| below + 1);
        depths.extend(new.into_iter().rev().zip(lowest..));
    }
    depths
}
