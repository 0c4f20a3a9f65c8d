//! Pull: points of a repository become images of a store, with their snapshots, modes, origins and
//! machines.
//!
//! Contents that the store has already, by their identity, are used as they are; chunks that it has
//! already, by their names, are not fetched. Chunks are fetched in the order of their addresses,
//! which is the order in which they were first pushed, so that a pulled image lies in this store as
//! it did in the first.

mod follow;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::mpsc::sync_channel;

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::name::Name;
use vellum_core::tree::{
    Annotation, Arrival, ArrivingImage, ArrivingMachine, ArrivingMachineSnapshot, ArrivingOrigin,
    ArrivingSnapshot, Marks, NewConfiguration, NodeRef,
};
use vellum_core::units::{ChunkCount, ChunkId, LayerId};
use vellum_store::transfer::{FollowedImage, ReceiveTransaction, VerifiedChunks};
use vellum_store::{Progress, Store, Watch};

use crate::error::BackupError;
use crate::format::address;
use crate::hit;
use crate::reader::{ContentView, Reader};
use crate::record::{Machine, Point};
use crate::translation::Translation;
use crate::wording::{from_base64, mode_of};
use follow::{Followed, follow};

/// Names that are looked for together.
const NAMES_TOGETHER: usize = 4096;

/// An image to make: one point for what it shows, and those that become its snapshots.
#[derive(Clone, Debug)]
pub struct PullImage {
    /// The image's name in the store.
    pub name: Name,
    /// The point whose content it gets.
    pub state: Point,
    /// The points that become its snapshots, the oldest first.
    pub snapshots: Vec<Point>,
}

/// The points and machines to pull, and how.
#[derive(Clone, Debug, Default)]
pub struct PullRequest {
    /// The images.
    pub images: Vec<PullImage>,
    /// The machines, and what they will be called: those that have disks which are not pulled come
    /// without them.
    pub machines: Vec<(Name, Machine)>,
    /// Read what the store seems to have before it is believed: each frame once. What is damaged is
    /// fetched again.
    pub verify: bool,
    /// Images that the store has by these names follow: they get the new snapshots and the new
    /// state. Machines of which a disk is there stay as they are.
    pub update: bool,
}

/// The result of a pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullReport {
    /// The images that were made.
    pub nodes: Vec<NodeRef>,
    /// Contents that came, and that were there.
    pub contents: (u64, u64),
    /// Chunks that were fetched, and that were there.
    pub chunks: (u64, u64),
    /// The damaged chunks among those that were there, which are whole again for every image that
    /// has them.
    pub chunks_healed: u64,
    /// Machine snapshots that were left out because something that they keep is not in the
    /// repository.
    pub lost_machine_snapshots: Vec<String>,
}

impl PullRequest {
    /// All points that `wanted` takes, as the images that they were: `renamed` gives each its name.
    pub fn of(
        reader: &Reader<'_>,
        wanted: impl Fn(&Point) -> bool,
        machines: bool,
        renamed: impl Fn(&str) -> String,
    ) -> Result<Self, BackupError> {
        let state = reader.repository().state();
        let mut images: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
        let points = state.points_oldest_first().into_iter();
        for point in points.filter(|point| wanted(point)) {
            images.entry(&point.image).or_default().push(point);
        }
        let images = images
            .into_values()
            .map(|points| image(&points, &renamed))
            .collect::<Result<Vec<_>, _>>()?;
        let all = state.machines().filter(|_| machines);
        let machines = all
            .map(|machine| Ok((name(&renamed(&machine.name))?, (**machine).clone())))
            .collect::<Result<_, BackupError>>()?;
        Ok(Self {
            images,
            machines,
            verify: false,
            update: false,
        })
    }
}

/// The image that `points`, which are all of one and the oldest first, make.
fn image(points: &[&Point], renamed: &impl Fn(&str) -> String) -> Result<PullImage, BackupError> {
    let newest = points
        .iter()
        .max_by_key(|point| point.snapshot.is_none())
        .expect("an image has a point");
    let snapshots: BTreeMap<u64, &Point> = points
        .iter()
        .filter_map(|point| Some((point.snapshot.as_ref()?.serial, *point)))
        .collect();
    let state = (*newest).clone();
    Ok(PullImage {
        name: name(&renamed(&state.name))?,
        state,
        snapshots: snapshots.into_values().cloned().collect(),
    })
}

fn name(text: &str) -> Result<Name, BackupError> {
    Name::new(text)
        .map_err(|error| BackupError::Parameter(format!("{text:?} cannot be a name here: {error}")))
}

/// Takes what `request` names into `store`. Nothing can be seen of it before all of it is durable;
/// then all at once. Damage is reported with the points that it hits.
pub fn pull(
    reader: &Reader<'_>,
    store: &Store,
    request: &PullRequest,
    watch: &dyn Watch,
) -> Result<PullReport, BackupError> {
    take(reader, store, request, watch).map_err(|error| hit::by_map(reader, error))
}

fn take(
    reader: &Reader<'_>,
    store: &Store,
    request: &PullRequest,
    watch: &dyn Watch,
) -> Result<PullReport, BackupError> {
    let own = store.parameters().chunk_len;
    if own != reader.chunk_len()? {
        let there = reader.repository().file().chunk_len;
        return Err(BackupError::Parameter(format!(
            "the store has chunks of {} bytes, the repository of {there}",
            own.byte_len()
        )));
    }
    // Names are refused before anything is fetched.
    let (arriving, following) = split(reader, store, request)?;
    let (planned, lost) = arrival(&arriving, store, &|_| LayerId(0))?;
    store
        .tree()
        .check_arrival(&planned)
        .map_err(vellum_store::StoreError::from)?;
    reader.load_indexes()?;
    let mut receipt = store.begin_receive()?;
    if request.verify {
        receipt.verify_chunks();
    }
    let wanted = contents(&arriving, &following)?;
    let there = contents_there(reader, &mut receipt, &wanted)?;
    let views = reader.again_if_missing(|| views(reader, &wanted, &there))?;
    let chunks = chunks(reader, &mut receipt, &views, watch)?;
    for view in &views {
        build(reader, &mut receipt, view, &chunks)?;
    }
    let layers: HashMap<ContentId, LayerId> = wanted
        .iter()
        .map(|content| Ok((*content, layer_of(reader, &mut receipt, *content)?)))
        .collect::<Result<_, BackupError>>()?;
    let layer = |content| layers[&content];
    let (arrival, _) = arrival(&arriving, store, &layer)?;
    let followed = following
        .iter()
        .map(|followed| followed_image(followed, &layer))
        .collect::<Result<Vec<_>, _>>()?;
    let (counts, chunks_healed) = (receipt.chunk_counts(), receipt.healed_count());
    let nodes = receipt.finish_following(arrival, followed)?;
    let known = (wanted.len() - views.len()) as u64;
    Ok(PullReport {
        nodes,
        contents: (views.len() as u64, known),
        chunks: counts,
        chunks_healed,
        lost_machine_snapshots: lost,
    })
}

/// Splits a request into what is new here, and images that follow.
fn split(
    reader: &Reader<'_>,
    store: &Store,
    request: &PullRequest,
) -> Result<(PullRequest, Vec<Followed>), BackupError> {
    let (tree, state) = (store.tree(), reader.repository().state());
    let (mut images, mut following) = (Vec::new(), Vec::new());
    for image in &request.images {
        let here = tree.image_named(&image.name).filter(|_| request.update);
        let Some(here) = here else {
            images.push(image.clone());
            continue;
        };
        let points = state
            .points()
            .filter(|point| point.image == image.state.image);
        let known = points
            .filter_map(|point| ContentId::parse(&point.content))
            .flat_map(|content| reader.ancestry(content))
            .collect();
        following.push(follow(&tree, here.id, image, &known)?);
    }
    let follows = |disk: &String| {
        let mut followed = following.iter().map(|followed| &followed.image.state.image);
        followed.any(|image| image == disk)
    };
    let machines = request.machines.iter().filter(|(name, machine)| {
        let is_there = request.update && tree.machines().machine_named(name).is_some();
        !is_there && !machine.disks.iter().any(follows)
    });
    let arriving = PullRequest {
        machines: machines.cloned().collect(),
        images,
        ..request.clone()
    };
    Ok((arriving, following))
}

fn followed_image(
    followed: &Followed,
    layer: &dyn Fn(ContentId) -> LayerId,
) -> Result<FollowedImage, BackupError> {
    let image = &followed.image;
    Ok(FollowedImage {
        id: followed.id,
        top: layer(content_of(&image.state)?),
        snapshots: image
            .snapshots
            .iter()
            .map(|point| arriving_snapshot(point, layer))
            .collect::<Result<_, BackupError>>()?,
    })
}

/// True if what `reader` has is relative to something that it does not have: a stream that goes on
/// where another ended.
#[must_use]
pub fn is_increment(reader: &Reader<'_>) -> bool {
    let state = reader.repository().state();
    let mut contents = state.contents();
    contents.any(|(id, _)| {
        let path = reader.ancestry(id);
        path.last().is_some_and(|end| state.content(*end).is_none())
    })
}

/// Fails if something that the request needs is relative to a content that neither the repository
/// nor the store has: what comes is an increment on something else.
pub(crate) fn refuse_missing_base(
    reader: &Reader<'_>,
    store: &Store,
    request: &PullRequest,
) -> Result<(), BackupError> {
    let (tree, state) = (store.tree(), reader.repository().state());
    let here: HashSet<ContentId> = tree.layers().filter_map(|layer| layer.content).collect();
    for content in contents(request, &[])? {
        let mut path = reader.ancestry(content).into_iter();
        let end = path.find(|id| here.contains(id) || state.content(*id).is_none());
        if let Some(base) = end.filter(|id| !here.contains(id)) {
            let journal = reader.repository().journal();
            let writer = journal.iter().map(|(_, record)| record.writer.clone());
            return Err(BackupError::MissingBase {
                base: base.to_string(),
                writer: writer.last().unwrap_or_default(),
            });
        }
    }
    Ok(())
}

/// Finds which of the contents that `wanted` are relative to the store shows already. One of which
/// something cannot be read counts only if the repository does not have it itself.
fn contents_there(
    reader: &Reader<'_>,
    receipt: &mut ReceiveTransaction<'_>,
    wanted: &[ContentId],
) -> Result<HashSet<ContentId>, BackupError> {
    let state = reader.repository().state();
    let mut there = HashSet::new();
    let all: BTreeSet<ContentId> = wanted
        .iter()
        .flat_map(|content| reader.ancestry(*content))
        .collect();
    for content in all {
        let is_there = match state.content(content) {
            Some(_) => receipt.can_rely_on(content)?,
            None => receipt.layer_showing(content).is_some(),
        };
        if is_there {
            there.insert(content);
        }
    }
    Ok(there)
}

/// The contents that new images and those that follow need, each once.
fn contents(request: &PullRequest, following: &[Followed]) -> Result<Vec<ContentId>, BackupError> {
    let points = request
        .images
        .iter()
        .chain(following.iter().map(|followed| &followed.image))
        .flat_map(|image| image.snapshots.iter().chain([&image.state]));
    let all = points.map(content_of).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(all.into_iter().collect())
}

fn content_of(point: &Point) -> Result<ContentId, BackupError> {
    let unknown = || BackupError::Damaged {
        object: format!("point {}", point.id),
        reason: "its content has no name".to_owned(),
        points: Vec::new(),
    };
    ContentId::parse(&point.content).ok_or_else(unknown)
}

/// The contents of `wanted` that are not `there`, each after those that it is relative to.
fn views<'r>(
    reader: &'r Reader<'r>,
    wanted: &[ContentId],
    there: &HashSet<ContentId>,
) -> Result<Vec<ContentView<'r>>, BackupError> {
    let all: HashSet<ContentId> = wanted.iter().copied().collect();
    let mut new: Vec<(usize, ContentId)> = wanted
        .iter()
        .filter(|content| !there.contains(content))
        .map(|content| (reader.ancestry(*content).len(), *content))
        .collect();
    new.sort_unstable();
    let is_base = |content: ContentId| there.contains(&content) || all.contains(&content);
    let views = new
        .into_iter()
        .map(|(_, content)| reader.content_over(content, is_base))
        .collect::<Result<Vec<_>, _>>()?;
    views.iter().try_for_each(|view| view.pages().map(drop))?;
    Ok(views)
}

fn layer_of(
    reader: &Reader<'_>,
    receipt: &mut ReceiveTransaction<'_>,
    content: ContentId,
) -> Result<LayerId, BackupError> {
    receipt.layer_showing(content).ok_or_else(|| {
        reader.damaged(
            format!("content {content}"),
            "it was neither there nor pulled".to_owned(),
        )
    })
}

/// Maps the addresses that `views` name to the store's ids of those chunks: of chunks that are
/// there, or were fetched.
fn chunks(
    reader: &Reader<'_>,
    receipt: &mut ReceiveTransaction<'_>,
    views: &[ContentView<'_>],
    watch: &dyn Watch,
) -> Result<Translation, BackupError> {
    let mut wanted = IdSet::new();
    views
        .iter()
        .try_for_each(|view| view.addresses().map(|own| wanted.union_with(&own)))?;
    let (mut found, mut missing) = (Translation::default(), IdSet::new());
    let mut next = wanted.next_from(ChunkId(0));
    while next.is_some() {
        let mut some = Vec::with_capacity(NAMES_TOGETHER);
        while let Some(address) = next.filter(|_| some.len() < NAMES_TOGETHER) {
            some.push(address);
            next = wanted.next_from(address.advance_by(1));
        }
        let names = some
            .iter()
            .map(|address| reader.name_of(*address))
            .collect::<Result<Vec<_>, _>>()?;
        for (address, id) in some.iter().zip(receipt.find_chunks(&names)?) {
            match id {
                Some(id) => found.insert(*address, id, 1),
                None => missing.insert(*address),
            }
        }
    }
    fetch(reader, receipt, &missing, &mut found, watch)?;
    Ok(found)
}

/// Fetches the chunks of `missing`, a few frames that lie side by side at a time: the next are
/// fetched and decoded while the last are stored.
fn fetch(
    reader: &Reader<'_>,
    receipt: &mut ReceiveTransaction<'_>,
    missing: &IdSet,
    found: &mut Translation,
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    let groups = reader.places_by_pack(missing)?;
    let (total, chunk_len) = (missing.len(), reader.chunk_len()?);
    let (sender, receiver) = sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for group in groups {
                let frames = verified(reader, &group, missing)
                    .map_err(|error| hit::by_frames(reader, &group, error));
                let failed = sender.send(frames).is_err();
                if failed {
                    return;
                }
            }
        });
        let mut done = 0;
        for frames in receiver {
            for (addresses, frame) in frames? {
                let ids = receipt.store_chunks(&frame)?;
                addresses
                    .iter()
                    .zip(ids)
                    .for_each(|(address, id)| found.insert(*address, id, 1));
                done += addresses.len() as u64;
            }
            watch.report_progress(Progress {
                done: done * chunk_len.byte_len(),
                total: Some(total * chunk_len.byte_len()),
            });
            if watch.is_cancelled() {
                return Err(BackupError::Interrupted);
            }
        }
        Ok(())
    })
}

/// The wanted chunks of some frames, with their addresses.
fn verified(
    reader: &Reader<'_>,
    group: &[crate::catalog::Place],
    wanted: &IdSet,
) -> Result<Vec<(Vec<ChunkId>, VerifiedChunks)>, BackupError> {
    let chunk_len = reader.chunk_len()?;
    let frames = reader.frames(group)?;
    let taken = frames.par_iter().map(|(number, frame)| {
        let (mut addresses, mut names, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        for (ordinal, bytes) in frame.chunks() {
            let address = address(*number, ordinal);
            if wanted.contains(address) {
                addresses.push(address);
                names.push(reader.name_of(address)?);
                plain.extend_from_slice(bytes);
            }
        }
        if addresses.is_empty() {
            return Ok(None);
        }
        let chunks = VerifiedChunks::of_plain(chunk_len, names, plain);
        Ok(Some((
            addresses,
            chunks.map_err(|reason| reader.damaged("a frame".to_owned(), reason))?,
        )))
    });
    Ok(taken
        .collect::<Result<Vec<_>, BackupError>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// Makes the layer that shows what `view` does.
fn build(
    reader: &Reader<'_>,
    receipt: &mut ReceiveTransaction<'_>,
    view: &ContentView<'_>,
    chunks: &Translation,
) -> Result<(), BackupError> {
    let base = view
        .base
        .map(|base| layer_of(reader, receipt, base))
        .transpose()?;
    receipt.begin_layer(view.id, base, view.len, ChunkCount(view.base_visible()))?;
    for index in view.pages()?.iter() {
        let page = view
            .page(index)?
            .with_translated_ids(|address, count| chunks.get(address, count));
        let page = page.ok_or_else(|| {
            reader.damaged(
                format!("content {}", view.id),
                "it names a chunk that was not fetched".to_owned(),
            )
        })?;
        receipt.put_page(index, &page)?;
    }
    receipt.end_layer()?;
    Ok(())
}

/// The names that come; and the machine snapshots that cannot, because something that they keep is
/// not among what comes.
fn arrival(
    request: &PullRequest,
    store: &Store,
    layer: &dyn Fn(ContentId) -> LayerId,
) -> Result<(Arrival, Vec<String>), BackupError> {
    let places: HashMap<&str, usize> = request
        .images
        .iter()
        .enumerate()
        .map(|(at, image)| (image.state.image.as_str(), at))
        .collect();
    let images = request
        .images
        .iter()
        .map(|image| arriving_image(image, &places, store, layer))
        .collect::<Result<Vec<_>, _>>()?;
    let mut lost = Vec::new();
    let machines = request
        .machines
        .iter()
        .map(|(name, machine)| arriving_machine(name, machine, request, &places, &mut lost))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((
        Arrival {
            images,
            machines,
            ..Arrival::default()
        },
        lost,
    ))
}

fn arriving_image(
    image: &PullImage,
    places: &HashMap<&str, usize>,
    store: &Store,
    layer: &dyn Fn(ContentId) -> LayerId,
) -> Result<ArrivingImage, BackupError> {
    let is_own = image.state.snapshot.is_none();
    Ok(ArrivingImage {
        name: image.name.clone(),
        layer: layer(content_of(&image.state)?),
        mode: mode(&image.state.mode)?,
        origin: image
            .state
            .origin
            .as_deref()
            .and_then(|origin| self::origin(origin, places, store)),
        created_ms: image.state.time_ms,
        // A snapshot's marks are its own.
        marks: if is_own {
            marks_of(&image.state)
        } else {
            Marks::default()
        },
        snapshots: image
            .snapshots
            .iter()
            .map(|point| arriving_snapshot(point, layer))
            .collect::<Result<_, BackupError>>()?,
    })
}

fn arriving_snapshot(
    point: &Point,
    layer: &dyn Fn(ContentId) -> LayerId,
) -> Result<ArrivingSnapshot, BackupError> {
    let text = point
        .snapshot
        .as_ref()
        .map_or("", |snapshot| &snapshot.name);
    let (name, layer) = (name(text)?, layer(content_of(point)?));
    Ok(ArrivingSnapshot {
        name,
        layer,
        created_ms: point.time_ms,
        marks: marks_of(point),
    })
}

/// The image called `identity`: one that comes, or is in the store that it came from.
fn origin(identity: &str, places: &HashMap<&str, usize>, store: &Store) -> Option<ArrivingOrigin> {
    if let Some(place) = places.get(identity) {
        return Some(ArrivingOrigin::Arriving(*place));
    }
    let (home, number) = identity.split_once('-')?;
    let is_home = store.id().is_some_and(|id| id.to_string() == home);
    let image = vellum_core::units::ImageId(number.parse().ok().filter(|_| is_home)?);
    store
        .tree()
        .image(image)
        .map(|image| ArrivingOrigin::Here(image.id))
}

/// The marks of a point; what this program would not have written as one is left out.
fn marks_of(point: &Point) -> Marks {
    let tags = point.tags.iter().filter_map(|text| Name::new(text).ok());
    let mut annotation = Annotation::default();
    let _ = annotation.set_description(&point.description);
    for (key, value) in &point.properties {
        if let Ok(key) = Name::new(key) {
            let _ = annotation.set_property(&key, value);
        }
    }
    Marks {
        tags: tags.collect(),
        pinned: point.pinned,
        annotation,
    }
}

fn mode(text: &str) -> Result<vellum_core::tree::Mode, BackupError> {
    mode_of(text).ok_or_else(|| {
        BackupError::Parameter(format!(
            "{text:?} is no mode that this program knows: use a newer one"
        ))
    })
}

fn arriving_machine(
    name: &Name,
    machine: &Machine,
    request: &PullRequest,
    places: &HashMap<&str, usize>,
    lost: &mut Vec<String>,
) -> Result<ArrivingMachine, BackupError> {
    let mut snapshots = Vec::with_capacity(machine.snapshots.len());
    for snapshot in &machine.snapshots {
        let kept = snapshot.disks.iter().map(|(image, mode, serial)| {
            let place = *places.get(image.as_str())?;
            let nth = |serial: &u64| {
                let is_it = |point: &Point| {
                    point
                        .snapshot
                        .as_ref()
                        .is_some_and(|snapshot| snapshot.serial == *serial)
                };
                request.images[place].snapshots.iter().position(is_it)
            };
            let snapshot = match serial {
                Some(serial) => Some(nth(serial)?),
                None => None,
            };
            Some((place, mode_of(mode)?, snapshot))
        });
        match kept.collect::<Option<Vec<_>>>() {
            None => lost.push(format!("{name}@{}", snapshot.name)),
            Some(disks) => snapshots.push(ArrivingMachineSnapshot {
                name: self::name(&snapshot.name)?,
                disks,
                configuration: configuration(snapshot.configuration.as_deref())?,
                created_ms: snapshot.time_ms,
            }),
        }
    }
    Ok(ArrivingMachine {
        name: name.clone(),
        disks: machine
            .disks
            .iter()
            .filter_map(|disk| places.get(disk.as_str()).copied())
            .collect(),
        configuration: configuration(machine.configuration.as_deref())?,
        created_ms: machine
            .snapshots
            .first()
            .map_or(0, |snapshot| snapshot.time_ms),
        snapshots,
        scratches: Vec::new(),
    })
}

fn configuration(text: Option<&str>) -> Result<Option<NewConfiguration>, BackupError> {
    let Some(text) = text else { return Ok(None) };
    let bytes = from_base64(text).ok_or_else(|| {
        BackupError::Parameter("a machine's configuration file is not in base64".to_owned())
    })?;
    NewConfiguration::new(&bytes)
        .map(Some)
        .map_err(|error| vellum_store::StoreError::from(error).into())
}
