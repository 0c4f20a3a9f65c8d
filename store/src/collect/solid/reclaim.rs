//! Gives back solid blocks that have lost their frames, and takes those apart of which little is
//! left.

use vellum_core::frame::{FrameHeader, REFERENCE_LEN, frame_key};
use vellum_core::solid::{SOLID_KEY_MIN, parse_solid_key, solid_key};
use vellum_core::units::SolidNumber;

use super::SolidUsage;
use crate::chunks::{DecodedFrame, DecodedSolid, EncodedFrame, FramePlan, encode_frame};
use crate::collect::compact::{compact_range, is_worth_it};
use crate::collect::{CollectionRun, LiveLengths};
use crate::database::{Batch, Database, Durability, Family};
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Watch, go_on};

/// Key behind all blocks.
const END: [u8; 9] = [0xff; 9];

/// Numbers of blocks are below.
const NUMBER_END: SolidNumber = SolidNumber(SOLID_KEY_MIN.0);

/// The block with the greatest number.
pub(super) fn last_block(database: &Database) -> Result<Option<SolidNumber>, StoreError> {
    let last = database.last_at_or_before(Family::Frames, &[0xff; 8])?;
    Ok(last.and_then(|(key, _)| parse_solid_key(&key)))
}

/// The first block whose number is `from` or greater; none if that cannot be told.
fn block_from(database: &Database, from: SolidNumber) -> Result<Option<SolidNumber>, StoreError> {
    let mut scan = database.scan_from(Family::Frames, &solid_key(from));
    match scan.next() {
        Ok(found) => Ok(found.and_then(|(key, _)| parse_solid_key(key))),
        Err(StoreError::Damaged(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes blocks that no frame is part of, and takes those apart of which less than half lives.
/// `usage` and `live` are what the sweep has counted, of all headers, and follow. Blocks behind a
/// table that cannot be read are left as they are.
pub(in crate::collect) fn reclaim_blocks(
    store: &Store,
    collection: &CollectionRun<'_>,
    (live, usage): (&mut LiveLengths, &mut SolidUsage),
    watch: &dyn Watch,
) -> Result<(), StoreError> {
    let database = &store.inner.database;
    let chunk_len = store.parameters().chunk_len.byte_len();
    let mut next = block_from(database, SolidNumber(0))?;
    if next.is_none() {
        return Ok(());
    }
    while let Some(number) = next {
        go_on(watch)?;
        // Blocks that frames are part of are not read, so the next one is guessed; those that are
        // gone are passed over together.
        next = number
            .0
            .checked_add(1)
            .map(SolidNumber)
            .filter(|next| *next < NUMBER_END);
        match usage.blocks.get(&number) {
            None if !delete_block(store, collection, number)? => {
                next = match next {
                    Some(behind) => block_from(database, behind)?,
                    None => None,
                };
            }
            None => {}
            Some(found) if found.is_sparse(chunk_len) => {
                if let Some(members) = take_apart(store, number)? {
                    replace_block(store, collection, number, &members)?;
                    usage.blocks.remove(&number);
                    for member in &members {
                        let payload_len = member.payload_len() as u64;
                        let first = member.chunks[0].0;
                        live.replace_payload(first, REFERENCE_LEN.into(), payload_len);
                    }
                }
            }
            Some(_) => {}
        }
    }
    database.flush_bulk(collection.generation)
}

/// Deletes a block that no frame is part of; false if there is none of that number that can be
/// read.
fn delete_block(
    store: &Store,
    collection: &CollectionRun<'_>,
    number: SolidNumber,
) -> Result<bool, StoreError> {
    match store.inner.database.get(Family::Frames, &solid_key(number)) {
        Ok(None) | Err(StoreError::Damaged(_)) => return Ok(false),
        Ok(Some(_)) => {}
        Err(error) => return Err(error),
    }
    replace_block(store, collection, number, &[]).map(|()| true)
}

/// The frames that are left of a block, as frames of their own; `None` if one is damaged, or there
/// is no room.
fn take_apart(store: &Store, number: SolidNumber) -> Result<Option<Vec<EncodedFrame>>, StoreError> {
    let block = match DecodedSolid::read_block(&store.inner.database, number) {
        Ok(block) => block,
        Err(StoreError::Damaged(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let needed = u64::from(block.plain_len()) + store.inner.sizes.import_margin;
    if store.check_room(needed).is_err() {
        return Ok(None);
    }
    let mut members = Vec::new();
    for first in block.members() {
        let stored = store.inner.database.get(Family::Headers, &frame_key(first));
        let value = match stored {
            Ok(Some(value)) => value,
            Ok(None) => continue,
            Err(StoreError::Damaged(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let header = FrameHeader::decode(first, &value).ok();
        let Some(header) =
            header.filter(|header| header.solid.is_some_and(|solid| solid.block == number))
        else {
            continue;
        };
        match store.inner.chunks.load_frame(header) {
            Ok(frame) if frame.is_whole() => members.push(encode_alone(store, &frame)?),
            Ok(_) | Err(StoreError::Damaged(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(members))
}

fn encode_alone(store: &Store, frame: &DecodedFrame) -> Result<EncodedFrame, StoreError> {
    let mut plan = FramePlan {
        chunks: Vec::with_capacity(frame.header.chunk_count()),
        plain: Vec::with_capacity(frame.plain_len()),
    };
    for (id, hash) in frame.header.chunk_hashes() {
        plan.plain.extend_from_slice(frame.chunk_bytes(id)?);
        plan.chunks.push((id, *hash));
    }
    Ok(encode_frame(store.parameters().compression, plan))
}

/// Deletes a block and writes what is left of it as `members`, as one batch.
fn replace_block(
    store: &Store,
    collection: &CollectionRun<'_>,
    number: SolidNumber,
    members: &[EncodedFrame],
) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    members
        .iter()
        .for_each(|member| member.put_content(&mut batch));
    batch.delete_record(Family::Frames, solid_key(number));
    let _index = store.inner.chunks.lock_index();
    let database = &store.inner.database;
    database.write_in(collection.generation, batch, Durability::Bulk)?;
    store.inner.chunks.note_rewritten();
    store.inner.chunks.forget_solid(number);
    Ok(())
}

/// Rewrites the files of blocks, if they hold too much that is dead and there is room. What was
/// deleted is flushed.
pub(in crate::collect) fn compact_blocks(store: &Store, usage: &SolidUsage) {
    let chunk_len = store.parameters().chunk_len.byte_len();
    let blocks = usage.blocks.values();
    let live_len = blocks.map(|block| block.stored_len(chunk_len)).sum();
    let start = solid_key(SolidNumber(0));
    let stored_len = store
        .inner
        .database
        .stored_len(Family::Frames, &start, &END);
    if is_worth_it(stored_len, live_len) {
        compact_range(store, Family::Frames, &start, &END, live_len);
    }
}
