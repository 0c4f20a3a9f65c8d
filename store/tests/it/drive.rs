//! Driver of a real store: does the model's operations to it, and holds the two against each other.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use vellum_core::name::Name;
use vellum_core::tree::{NodeRef, PlanError};
use vellum_core::units::ImageId;
use vellum_store::{
    CheckOptions, CheckReport, CollectOptions, DeepOptions, ExportTarget, ImageInput,
    ImportRequest, ImportTarget, LiveDisk, RebaseMode, Store, StoreError, Unwatched,
};

use super::content::{Choices, Content};
use super::world::{Expected, Operation, Refusal, Snapshot, Step, World};

/// Longest random read, in bytes.
const READ_LEN_MAX: u64 = 100_000;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("the model's names are names")
}

pub(crate) fn node(store: &Store, text: &str) -> Result<NodeRef, StoreError> {
    let found = store.find_node(text)?;
    assert_eq!(
        store.tree().display_name(found),
        text,
        "a whole name means that node, whatever begins with it"
    );
    Ok(found)
}

pub(crate) fn image(store: &Store, text: &str) -> Result<ImageId, StoreError> {
    Ok(node(store, text)?.image_id())
}

fn serial(store: &Store, text: &str) -> Result<(ImageId, u64), StoreError> {
    match node(store, text)? {
        NodeRef::Snapshot(image, serial) => Ok((image, serial)),
        NodeRef::Image(_) => panic!("{text} is a snapshot"),
    }
}

pub(crate) fn input(content: Content, as_stream: bool) -> ImageInput {
    if as_stream {
        ImageInput::of_stream(
            Box::new(std::io::Cursor::new(content.bytes.0)),
            "a pipe".to_owned(),
        )
    } else {
        ImageInput::of_source(Box::new(content), "a source".to_owned())
    }
}

/// Does `operation`, and whatever it promises on its own. `scratch` is a folder for exports.
pub(crate) fn perform(
    store: &Store,
    world: &World,
    operation: &Operation,
    scratch: &Path,
) -> Result<(), StoreError> {
    match operation.clone() {
        Operation::Create { name: text, len } => store.create_image(&name(&text), len).map(drop),
        Operation::CreateChild {
            name: text,
            parent,
            len,
        } => store
            .create_child(&name(&text), node(store, &parent)?, len)
            .map(drop),
        Operation::Import {
            name: text,
            parent,
            content,
            snapshot,
            as_stream,
        } => import_new(store, &text, parent, content, snapshot, as_stream),
        Operation::Update {
            image: text,
            content,
            snapshot,
            as_stream,
        } => update_image(store, &text, content, snapshot, as_stream),
        Operation::Live { image: text, steps } => {
            let disk = store.open_live(image(store, &text)?)?;
            live(store, world, &disk, &text, &steps)
        }
        Operation::Snapshot {
            image: text,
            name: tag,
        } => store
            .take_snapshot(image(store, &text)?, &name(&tag))
            .map(drop),
        Operation::Delete {
            node: text,
            with_snapshots,
        } => delete_node(store, &text, with_snapshots),
        Operation::Restore { snapshot, save_as } => restore_snapshot(store, &snapshot, save_as),
        Operation::Rename {
            node: text,
            name: new,
        } => store.rename_node(node(store, &text)?, &name(&new)),
        Operation::Flatten { image: text } => store.flatten(image(store, &text)?, &Unwatched),
        Operation::Commit { image: text } => store.commit_image(image(store, &text)?).map(drop),
        Operation::Rebase {
            image: text,
            parent,
            keep_content,
        } => rebase_image(store, &text, &parent, keep_content),
        Operation::Resize {
            image: text,
            len,
            may_shrink,
        } => store.resize_image(image(store, &text)?, len, may_shrink),
        Operation::Pin { node: text, pinned } => store.set_pinned(node(store, &text)?, pinned),
        Operation::Collect { dry_run, is_deep } => store
            .collect(
                CollectOptions {
                    dry_run,
                    deep: is_deep.then_some(DeepOptions { level: 3 }),
                },
                &Unwatched,
            )
            .map(drop),
        Operation::Check { read_data } => check(store, read_data).map(drop),
        Operation::Export {
            node: text,
            as_stream,
        } => export(store, world, &text, as_stream, scratch),
        Operation::Reopen | Operation::Crash => panic!("what a store cannot do to itself"),
    }
}

fn import_new(
    store: &Store,
    text: &str,
    parent: Option<String>,
    content: Content,
    snapshot: Option<String>,
    as_stream: bool,
) -> Result<(), StoreError> {
    let parent = parent.map(|parent| node(store, &parent)).transpose()?;
    let target = ImportTarget::New {
        name: name(text),
        parent,
    };
    import(store, target, content, snapshot, as_stream)
}

fn update_image(
    store: &Store,
    text: &str,
    content: Content,
    snapshot: Option<String>,
    as_stream: bool,
) -> Result<(), StoreError> {
    let target = ImportTarget::Update(image(store, text)?);
    import(store, target, content, snapshot, as_stream)
}

fn import(
    store: &Store,
    target: ImportTarget,
    content: Content,
    snapshot: Option<String>,
    as_stream: bool,
) -> Result<(), StoreError> {
    let len = content.bytes.0.len() as u64;
    let request = ImportRequest {
        target,
        snapshot: snapshot.as_deref().map(name),
    };
    let report = store.import(input(content, as_stream), &request, &Unwatched)?;
    assert_eq!(report.len, len, "the report tells the disk's length");
    assert_eq!(
        matches!(report.node, NodeRef::Snapshot(..)),
        snapshot.is_some(),
        "the report names what was asked for"
    );
    Ok(())
}

fn delete_node(store: &Store, text: &str, with_snapshots: bool) -> Result<(), StoreError> {
    match node(store, text)? {
        NodeRef::Image(image) => store.delete_image(image, with_snapshots),
        NodeRef::Snapshot(image, serial) => store.delete_snapshot(image, serial),
    }
}

fn restore_snapshot(store: &Store, text: &str, save_as: Option<String>) -> Result<(), StoreError> {
    let (image, serial) = serial(store, text)?;
    store
        .restore_snapshot(image, serial, save_as.as_deref().map(name).as_ref())
        .map(drop)
}

fn rebase_image(
    store: &Store,
    text: &str,
    parent: &str,
    keep_content: bool,
) -> Result<(), StoreError> {
    let mode = if keep_content {
        RebaseMode::KeepContent
    } else {
        RebaseMode::KeepMap
    };
    store.rebase(image(store, text)?, node(store, parent)?, mode, &Unwatched)
}

/// Walks through `steps`, reading back every byte that was touched, flushed or not.
pub(crate) fn live(
    store: &Store,
    world: &World,
    disk: &LiveDisk,
    text: &str,
    steps: &[Step],
) -> Result<(), StoreError> {
    let mut expected = world.images[text].clone();
    assert_eq!(disk.len(), expected.bytes.len() as u64);
    for step in steps {
        match step {
            Step::Write { offset, bytes } => disk.write_at(&bytes.0, *offset)?,
            Step::Zero { offset, len } => disk.write_zeroes(*offset, *len)?,
            Step::Flush => disk.flush()?,
            Step::Snapshot { name: tag } => {
                store
                    .take_snapshot(image(store, text)?, &name(tag))
                    .map(drop)?;
            }
        }
        super::world::apply_step(&mut expected, step);
        let (start, end) = match step {
            Step::Write { offset, bytes } => (*offset, offset + bytes.0.len() as u64),
            Step::Zero { offset, len } => (*offset, offset + len),
            Step::Flush | Step::Snapshot { .. } => (0, disk.len()),
        };
        let (start, end) = (start.saturating_sub(5000), (end + 5000).min(disk.len()));
        let mut seen = vec![0xaa; (end - start) as usize];
        disk.read_at(&mut seen, start)?;
        same(
            &seen,
            &expected.bytes[start as usize..end as usize],
            &format!("{text} while it is written, from {start}, after {step:?}"),
        );
    }
    Ok(())
}

/// A check that must find nothing lost.
pub(crate) fn check(store: &Store, read_data: bool) -> Result<CheckReport, StoreError> {
    let report = store.check(
        CheckOptions {
            read_data,
            subset: None,
        },
        &Unwatched,
    )?;
    let damage: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.is_damage)
        .collect();
    assert!(damage.is_empty(), "a whole store has no damage: {damage:?}");
    Ok(report)
}

#[derive(Clone, Default)]
pub(crate) struct Sink(pub Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("no writer panics")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn export(
    store: &Store,
    world: &World,
    text: &str,
    as_stream: bool,
    scratch: &Path,
) -> Result<(), StoreError> {
    let from = node(store, text)?;
    let bytes = if as_stream {
        let sink = Sink::default();
        store.export_image(
            from,
            ExportTarget::Stream(Box::new(sink.clone())),
            &Unwatched,
        )?;
        std::mem::take(&mut *sink.0.lock().expect("no writer panics"))
    } else {
        let path = scratch.join("export.raw");
        store.export_image(
            from,
            ExportTarget::File {
                path: path.clone(),
                overwrite: true,
            },
            &Unwatched,
        )?;
        std::fs::read(&path).expect("an export has its name once it is whole")
    };
    same(
        &bytes,
        world.bytes_of(text),
        &format!("the export of {text}"),
    );
    Ok(())
}

/// True if the operation was done. Panics if the outcome is not the one that the model expects.
pub(crate) fn agrees(expected: Expected, outcome: &Result<(), StoreError>) -> bool {
    match (expected, outcome) {
        (Expected::Done | Expected::Either, Ok(())) => true,
        (
            Expected::Either,
            Err(StoreError::Plan(PlanError::NoOrigin(_) | PlanError::OriginChanged { .. })),
        ) => false,
        (Expected::Refused(refusal), Err(StoreError::Plan(error))) => {
            let fits = match refusal {
                Refusal::NameTaken => matches!(error, PlanError::NameTaken(_)),
                Refusal::Pinned => matches!(error, PlanError::Pinned(_)),
                Refusal::HasSnapshots => matches!(error, PlanError::HasSnapshots { .. }),
                Refusal::WouldShrink => matches!(error, PlanError::WouldShrink { .. }),
                Refusal::Circle => matches!(error, PlanError::Circle { .. }),
                Refusal::NoOrigin => matches!(error, PlanError::NoOrigin(_)),
            };
            assert!(fits, "refused for {error}, not for {refusal:?}");
            false
        }
        (expected, outcome) => panic!("{outcome:?} where the model expects {expected:?}"),
    }
}

pub(crate) fn read(store: &Store, text: &str) -> Result<Vec<u8>, StoreError> {
    let disk = store.open_disk(node(store, text)?)?;
    let mut bytes = vec![0xaa; disk.len() as usize];
    disk.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Fails with the first difference, not with megabytes.
pub(crate) fn same(seen: &[u8], expected: &[u8], what: &str) {
    if seen == expected {
        return;
    }
    assert_eq!(seen.len(), expected.len(), "{what}: length");
    let first = seen
        .iter()
        .zip(expected)
        .position(|(seen, expected)| seen != expected)
        .expect("they differ");
    let last = seen
        .iter()
        .zip(expected)
        .rposition(|(seen, expected)| seen != expected)
        .expect("they differ");
    let zeros = |bytes: &[u8]| {
        if bytes[first..=last].iter().all(|byte| *byte == 0) {
            " (zeros)"
        } else {
            ""
        }
    };
    panic!(
        "{what}: bytes {first} to {last} of {} are wrong{}, expected{}",
        expected.len(),
        zeros(seen),
        zeros(expected)
    );
}

/// Names and lengths of everything, cheap enough to compare after every operation.
pub(crate) fn compare_names(store: &Store, world: &World) {
    let nodes: Vec<NodeRef> = store.tree().all_nodes().collect();
    let seen: BTreeMap<String, u64> = nodes
        .iter()
        .map(|node| {
            (
                store.tree().display_name(*node),
                store
                    .tree()
                    .layer_of(*node)
                    .expect("a listed node has a layer")
                    .len,
            )
        })
        .collect();
    let expected: BTreeMap<String, u64> = world
        .nodes()
        .map(|(name, bytes)| (name, bytes.len() as u64))
        .collect();
    assert_eq!(seen, expected, "names and lengths");
}

/// A few random reads of one random node.
pub(crate) fn compare_some(store: &Store, world: &World, choices: &mut impl Choices) {
    let names: Vec<String> = world
        .nodes()
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|(name, _)| name)
        .collect();
    if names.is_empty() {
        return;
    }
    let text = choices.pick(&names);
    let expected = world.bytes_of(text);
    let disk = store
        .open_disk(node(store, text).expect("names were compared"))
        .expect("a listed node opens");
    for _ in 0..3 {
        let start = choices.below(expected.len() as u64);
        let len = choices.below((expected.len() as u64 - start).min(READ_LEN_MAX) + 1);
        let mut seen = vec![0xaa; len as usize];
        disk.read_at(&mut seen, start)
            .expect("a whole store can be read");
        same(
            &seen,
            &expected[start as usize..][..len as usize],
            &format!("{text} from {start}"),
        );
    }
}

/// Everything, byte for byte.
pub(crate) fn compare_all(store: &Store, world: &World) {
    compare_names(store, world);
    for (text, expected) in world.nodes() {
        same(
            &read(store, &text).expect("a whole store can be read"),
            expected,
            &text,
        );
    }
}

/// Content of a store, as a world.
pub(crate) fn world_of(
    store: &Store,
    grid: u64,
    limits: super::world::Limits,
) -> Result<World, StoreError> {
    let mut world = World::new(grid, limits);
    let nodes: Vec<NodeRef> = store.tree().all_nodes().collect();
    let names: Vec<String> = nodes
        .iter()
        .map(|node| store.tree().display_name(*node))
        .collect();
    for image in names.iter().filter(|name| !name.contains('@')) {
        let mut snapshots = BTreeMap::new();
        for (text, tag) in names
            .iter()
            .filter_map(|name| Some((name, name.strip_prefix(image.as_str())?.strip_prefix('@')?)))
        {
            snapshots.insert(
                tag.to_owned(),
                Snapshot {
                    bytes: Arc::new(read(store, text)?),
                    pinned: false,
                },
            );
        }
        world.add(image, read(store, image)?, snapshots);
    }
    Ok(world)
}

/// Acknowledged writes are durable only after a flush, so every writing to a disk ends with one.
pub(crate) fn flushed(operation: Operation) -> Operation {
    match operation {
        Operation::Live { image, mut steps } => {
            steps.push(Step::Flush);
            Operation::Live { image, steps }
        }
        other => other,
    }
}
