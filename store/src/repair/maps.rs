//! Makes layers, names and pages consistent again: a reference to lost content becomes an explicit
//! loss.
//!
//! A page that is lost, or that may be older than the acknowledged one, is replaced by one whose
//! every position stands for a chunk of a number that no chunk ever had: reading one of them is an
//! error that names image and range, as for any chunk that is lost, while everything around it is
//! read, written over, collected and checked as always.

use std::collections::BTreeMap;

use vellum_core::id_set::IdSet;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run, page_key, parse_page_key};
use vellum_core::tree::{
    Image, Layer, Marks, Mode, PageSet, Snapshot, VirtualMachine, VirtualMachineSnapshot,
};
use vellum_core::units::{ChunkCount, ChunkId, ImageId, LayerId, PageIndex};

use super::history::FamilyHistory;
use crate::database::{Batch, Database, Durability, Family};
use crate::error::StoreError;
use crate::keys::{image_key, machine_key, machine_snapshot_key, snapshot_key};
use crate::records::{self, Counters, StoreParameters, StoreRecord};
use crate::stored_records::put_record;
use vellum_core::name::Name;

/// Everything that has a number or a name, as far as it can be read.
#[derive(Default)]
pub(super) struct RecordCatalog {
    pub(super) layers: BTreeMap<LayerId, Layer>,
    pub(super) images: BTreeMap<ImageId, Image>,
    pub(super) snapshots: BTreeMap<(ImageId, u64), Snapshot>,
    pub(super) machines: Vec<VirtualMachine>,
    machine_snapshots: Vec<VirtualMachineSnapshot>,
}

/// Result of mending the maps.
#[derive(Default)]
pub(super) struct MapMends {
    /// Numbers that stand for what lost pages said.
    pub(super) lost: IdSet,
    pub(super) pages_lost: u64,
    /// Images and snapshots that can no longer be had under their names.
    pub(super) names_lost: Vec<String>,
}

impl RecordCatalog {
    /// All records that can be read.
    pub(super) fn read_all(database: &Database) -> Result<Self, StoreError> {
        let mut books = Self::default();
        let mut scan = database.scan_from(Family::Layers, &[]);
        while let Some((key, value)) = scan.next()? {
            let layer =
                records::decode_record::<Layer>(Family::Layers.family_name(), key, value).ok();
            books.layers.extend(layer.map(|layer| (layer.id, layer)));
        }
        let mut scan = database.scan_from(Family::Names, &[]);
        while let Some((key, value)) = scan.next()? {
            books.add_named(key, value);
        }
        Ok(books)
    }

    fn add_named(&mut self, key: &[u8], value: &[u8]) {
        let family = Family::Names.family_name();
        match key.first() {
            Some(b'i') => {
                let image = records::decode_record::<Image>(family, key, value).ok();
                self.images.extend(image.map(|image| (image.id, image)));
            }
            Some(b's') => {
                let snapshot = records::decode_record::<Snapshot>(family, key, value).ok();
                let keyed = snapshot.map(|snapshot| ((snapshot.image, snapshot.serial), snapshot));
                self.snapshots.extend(keyed);
            }
            Some(b'm') => self
                .machines
                .extend(records::decode_record(family, key, value).ok()),
            Some(b't') => self
                .machine_snapshots
                .extend(records::decode_record(family, key, value).ok()),
            _ => {}
        }
    }

    /// The greatest number that any of it has.
    fn greatest_id(&self) -> u64 {
        let layers = self.layers.keys().map(|id| id.0);
        let images = self.images.keys().map(|id| id.0);
        let snapshots = self.snapshots.keys().map(|(_, serial)| *serial);
        let machines = self.machines.iter().map(|machine| machine.id.0);
        let kept = self
            .machine_snapshots
            .iter()
            .map(|snapshot| snapshot.serial);
        let files = self.machines.iter().map(|machine| machine.configuration);
        let files = files.chain(self.machine_snapshots.iter().map(|kept| kept.configuration));
        let files = files.flatten().map(|file| file.id.0);
        let all = layers
            .chain(images)
            .chain(snapshots)
            .chain(machines)
            .chain(kept)
            .chain(files);
        all.max().unwrap_or(0)
    }

    /// The images and snapshots that show a layer.
    pub(super) fn shown_by(&self, layer: LayerId) -> Vec<String> {
        let shows = |mut top: LayerId| {
            for _ in 0..=self.layers.len() {
                if top == layer {
                    return true;
                }
                let Some(parent) = self.layers.get(&top).and_then(|layer| layer.parent) else {
                    return false;
                };
                top = parent;
            }
            false
        };
        let images = self.images.values().filter(|image| shows(image.layer));
        let snapshots = self
            .snapshots
            .values()
            .filter(|snapshot| shows(snapshot.layer));
        let snapshots = snapshots.map(|snapshot| self.snapshot_name(snapshot));
        images
            .map(|image| image.name.to_string())
            .chain(snapshots)
            .collect()
    }

    pub(super) fn snapshot_name(&self, snapshot: &Snapshot) -> String {
        let image = self.images.get(&snapshot.image);
        let image = image.map_or_else(
            || format!("image {}", snapshot.image),
            |image| image.name.to_string(),
        );
        format!("{image}@{}", snapshot.name)
    }

    /// Takes away what refers to something that is gone, and puts in its place what can be.
    pub(super) fn mend_references(
        &mut self,
        parameters: StoreParameters,
        numbers: &mut Counters,
        mends: &mut MapMends,
    ) -> Batch {
        numbers.next_id = numbers.next_id.max(self.greatest_id() + 1);
        let mut batch = Batch::default();
        self.mend_parents(parameters, &mut batch);
        self.mend_images(&mut batch, mends);
        self.mend_snapshots(parameters, numbers, &mut batch, mends);
        self.mend_machines(&mut batch, mends);
        batch
    }

    /// A layer that is gone is replaced by one that says nothing that can be read: what stands on
    /// it must not show zeros instead.
    fn mend_parents(&mut self, parameters: StoreParameters, batch: &mut Batch) {
        let mut gone: BTreeMap<LayerId, u64> = BTreeMap::new();
        for layer in self.layers.values() {
            let parent = layer
                .parent
                .filter(|parent| !self.layers.contains_key(parent));
            if let Some(parent) = parent {
                let len = gone.entry(parent).or_default();
                *len = layer.len.max(*len);
            }
        }
        for (id, len) in gone {
            let pages = parameters
                .chunk_len
                .count_for(len)
                .0
                .div_ceil(u64::from(PAGE_SPAN));
            let layer = Layer {
                id,
                parent: None,
                sealed: true,
                len,
                parent_visible: ChunkCount(0),
                pages: PageSet::from_ranges(vec![(0, pages)]).unwrap_or_default(),
                chunks: 0,
                zeros: 0,
                created_ms: 0,
                changed_ns: 0,
                content: None,
            };
            // Its own pages may be there, but not what lay below them.
            batch.delete_range(
                Family::Pages,
                page_key(id, PageIndex(0)),
                page_key(LayerId(id.0 + 1), PageIndex(0)),
            );
            put_record(batch, Family::Layers, &id.0.to_be_bytes(), &layer);
            self.layers.insert(id, layer);
        }
    }

    fn mend_images(&mut self, batch: &mut Batch, mends: &mut MapMends) {
        let layers = &self.layers;
        self.images.retain(|id, image| {
            let is_there = layers.contains_key(&image.layer);
            if !is_there {
                batch.delete_record(Family::Names, image_key(*id));
                mends
                    .names_lost
                    .push(format!("image {}: its layer is gone", image.name));
            }
            is_there
        });
    }

    fn mend_snapshots(
        &mut self,
        parameters: StoreParameters,
        numbers: &mut Counters,
        batch: &mut Batch,
        mends: &mut MapMends,
    ) {
        for ((image, serial), snapshot) in std::mem::take(&mut self.snapshots) {
            let Some(layer) = self.layers.get(&snapshot.layer).cloned() else {
                batch.delete_record(Family::Names, snapshot_key(image, serial));
                let name = self.snapshot_name(&snapshot);
                mends
                    .names_lost
                    .push(format!("snapshot {name}: its layer is gone"));
                continue;
            };
            if !self.images.contains_key(&image) {
                self.stand_in(image, &layer, parameters, numbers, batch);
            }
            self.snapshots.insert((image, serial), snapshot);
        }
    }

    /// An image in the place of one that is gone, so that its snapshots can be had.
    fn stand_in(
        &mut self,
        id: ImageId,
        snapshot: &Layer,
        parameters: StoreParameters,
        numbers: &mut Counters,
        batch: &mut Batch,
    ) {
        let Ok(name) = Name::new(&format!("recovered-{id}")) else {
            return;
        };
        let layer = Layer {
            id: LayerId(numbers.next_id),
            parent: Some(snapshot.id),
            sealed: false,
            parent_visible: parameters.chunk_len.count_for(snapshot.len),
            pages: PageSet::new(),
            chunks: 0,
            zeros: 0,
            content: None,
            ..snapshot.clone()
        };
        numbers.next_id += 1;
        let image = Image {
            id,
            name,
            layer: layer.id,
            mode: Mode::Normal,
            origin: None,
            created_ms: snapshot.created_ms,
            marks: Marks::default(),
            scratch_of: None,
            scratch_for: None,
            is_over: false,
            source_format: None,
        };
        put_record(batch, Family::Layers, &layer.id.0.to_be_bytes(), &layer);
        put_record(batch, Family::Names, &image_key(id), &image);
        self.layers.insert(layer.id, layer);
        self.images.insert(id, image);
    }

    fn mend_machines(&mut self, batch: &mut Batch, mends: &mut MapMends) {
        for machine in &mut self.machines {
            let count = machine.disks.len();
            machine.disks.retain(|disk| self.images.contains_key(disk));
            if machine.disks.len() < count {
                put_record(batch, Family::Names, &machine_key(machine.id), machine);
                mends
                    .names_lost
                    .push(format!("machine {}: a disk of it is gone", machine.name));
            }
        }
        for kept in &self.machine_snapshots {
            let has_machine = self
                .machines
                .iter()
                .any(|machine| machine.id == kept.machine);
            let has_disks = kept.disks.iter().all(|disk| {
                let snapshot = disk.snapshot.map(|serial| (disk.image, serial));
                self.images.contains_key(&disk.image)
                    && snapshot.is_none_or(|key| self.snapshots.contains_key(&key))
            });
            if !has_machine || !has_disks {
                batch.delete_record(
                    Family::Names,
                    machine_snapshot_key(kept.machine, kept.serial),
                );
                mends.names_lost.push(format!(
                    "machine snapshot {}: a part of it is gone",
                    kept.name
                ));
            }
        }
    }

    /// Replaces pages that are gone, cannot be read, or are unsure by `history`.
    pub(super) fn mend_pages(
        &mut self,
        database: &Database,
        parameters: StoreParameters,
        history: Option<&FamilyHistory>,
        numbers: &mut Counters,
        mends: &mut MapMends,
    ) -> Result<(), StoreError> {
        reserve_numbers(database, numbers)?;
        for layer in self.layers.values() {
            let (mut batch, mut layer, mut counts) = (Batch::default(), layer.clone(), (0, 0));
            for index in layer.pages.iter() {
                let key = page_key(layer.id, index);
                let bytes = database.get(Family::Pages, &key)?;
                let page = bytes.and_then(|bytes| Page::decode(layer.id, index, &bytes).ok());
                let is_unsure = history.is_some_and(|history| history.is_unsure(&key));
                let page = page.filter(|_| !is_unsure);
                let found = page.as_ref().map_or((0, 0), Page::count_entries);
                counts = (counts.0 + found.0, counts.1 + found.1);
                if page.is_some() {
                    continue;
                }
                let count = layer.positions_in(parameters.chunk_len, index).max(1);
                let first = ChunkId(numbers.next_chunk);
                numbers.next_chunk += u64::from(count);
                mends.lost.insert_run(first, count.into());
                mends.pages_lost += 1;
                counts.0 += u64::from(count);
                batch.put_record(
                    Family::Pages,
                    key,
                    lost_page(first, count).encode(layer.id, index),
                );
            }
            if !batch.is_empty() {
                (layer.chunks, layer.zeros) = counts;
                put_record(
                    &mut batch,
                    Family::Layers,
                    &layer.id.0.to_be_bytes(),
                    &layer,
                );
                database.write_batch(batch, Durability::Logged)?;
            }
        }
        Ok(())
    }
}

/// Sees to it that no number is given twice that any page has.
fn reserve_numbers(database: &Database, numbers: &mut Counters) -> Result<(), StoreError> {
    let mut scan = database.scan_from(Family::Pages, &[]);
    while let Some((key, value)) = scan.next()? {
        let Ok((layer, index)) = parse_page_key(key) else {
            continue;
        };
        numbers.next_id = numbers.next_id.max(layer.0 + 1);
        let Ok(page) = Page::decode(layer, index, value) else {
            continue;
        };
        for run in page.runs() {
            if let PageEntry::Chunk(first) = run.slot {
                numbers.next_chunk = numbers.next_chunk.max(first.0 + u64::from(run.len));
            }
        }
    }
    Ok(())
}

/// A page whose first `count` positions stand for chunks that there are not.
fn lost_page(first: ChunkId, count: u16) -> Page {
    let mut page = Page::new();
    page.push_run(Run {
        start: 0,
        len: count,
        slot: PageEntry::Chunk(first),
    });
    page
}

/// The record of meta at `key`, if it can be read.
pub(super) fn read_meta<R: StoreRecord>(
    database: &Database,
    key: &[u8],
) -> Result<Option<R>, StoreError> {
    let value = database.get(Family::Meta, key)?;
    Ok(
        value
            .and_then(|value| records::decode_record(Family::Meta.family_name(), key, &value).ok()),
    )
}
