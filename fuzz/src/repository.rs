//! Fuzz bodies for what a repository holds, past its seals: they stop chance, not an attacker who
//! has the key, or who writes into a plain repository.

use vellum_backup::format::{
    IndexObject, MapBlob, RepositoryFile, SEGMENT_LEN_MAX, decode_frame, encode_frame,
    split_address,
};
use vellum_backup::objects::{ObjectId, ObjectName};
use vellum_backup::record::Record;
use vellum_backup::seal::{
    KeyFile, Opener, PLAIN_LEN_MAX, SealedKind, Sealer, key_info, unenveloped, unlock,
};
use vellum_backup::stream::read_any;
use vellum_core::hash::ChunkHash;
use vellum_core::identity::RepositoryId;
use vellum_core::page::{PAGE_SPAN, PageEntry};

const CHUNK_LEN: u32 = 4096;

/// A frame of a pack: one encoding, and as many chunks as it says or an error.
pub fn pack_frame(data: &[u8]) {
    let Ok(frame) = decode_frame(data) else {
        return;
    };
    assert_eq!(encode_frame(&frame), data, "one frame has one encoding");
    assert!(frame.first + frame.presence.span() <= SEGMENT_LEN_MAX);
    if let Ok(plain) = frame.decompressed(CHUNK_LEN) {
        assert_eq!(
            plain.len(),
            frame.presence.count() as usize * CHUNK_LEN as usize
        );
    }
    assert!(
        frame.chunks(CHUNK_LEN, |_| None).is_err(),
        "a chunk without a name is not ours"
    );
}

/// An index object: one encoding, and a name for every chunk of every frame.
pub fn index_object(data: &[u8]) {
    let Ok(index) = IndexObject::decode(data) else {
        return;
    };
    assert_eq!(index.encode(), data, "one index has one encoding");
    for pack in &index.packs {
        let mut end = 0;
        for frame in &pack.frames {
            assert!(frame.offset >= end, "frames do not overlap");
            end = frame.offset + u64::from(frame.len);
            let segment = &index.segments[&frame.segment];
            assert!(
                frame
                    .ordinals()
                    .all(|ordinal| segment.hash(ordinal).is_some())
            );
        }
        assert!(end <= pack.len);
    }
}

/// A blob of a map: one encoding, rising pages, addresses inside its segments, and the same pages
/// after a journey through other numbers.
pub fn map_blob(data: &[u8]) {
    let Ok(blob) = MapBlob::decode(data) else {
        return;
    };
    assert_eq!(blob.encode(), data, "one blob has one encoding");
    assert!(blob.pages.is_sorted_by(|(a, _), (b, _)| a < b));
    for run in blob.pages.iter().flat_map(|(_, page)| page.runs()) {
        assert!(run.end_position() <= PAGE_SPAN);
        if let PageEntry::Chunk(first) = run.slot {
            let (segment, ordinal) = split_address(first);
            assert!(
                (segment as usize) < blob.segments.len()
                    && ordinal + u32::from(run.len) <= SEGMENT_LEN_MAX
            );
        }
    }
    let segments = blob.segments.clone();
    let place = |id| segments.binary_search(&id).expect("a segment of the blob") as u32;
    let there: Vec<_> = blob.clone().into_pages(|id| place(id) + 7).collect();
    let back = MapBlob::from_pages(
        blob.content,
        blob.parent.map(|id| (id, blob.parent_visible)),
        &there,
        |number| segments[number as usize - 7],
    );
    let plain = |blob: &MapBlob| blob.clone().into_pages(place).collect::<Vec<_>>();
    assert_eq!(plain(&back), plain(&blob));
}

/// An envelope and a record in it: what it holds is bounded, and a record comes back from its own
/// JSON.
pub fn repository_record(data: &[u8]) {
    if let Ok(plain) = unenveloped(data) {
        assert!(plain.len() <= PLAIN_LEN_MAX);
    }
    let Ok(record) = serde_json::from_slice::<Record>(data) else {
        return;
    };
    let text = serde_json::to_vec(&record).expect("a record is JSON");
    let again: Record = serde_json::from_slice(&text).expect("its own JSON is a record");
    assert_eq!(serde_json::to_vec(&again).expect("a record is JSON"), text);
}

/// A key object: nothing opens it that did not make it. (By key file: a password's cost is bounded,
/// and not for a fuzzer.)
pub fn repository_key(data: &[u8]) {
    let repository = RepositoryFile {
        id: RepositoryId([7; 16]),
        is_encrypted: true,
        chunk_len: CHUNK_LEN,
    };
    let line = format!("vellum-key-1-{}", "5a".repeat(32));
    let opener = Opener::KeyFile(KeyFile::parse(&line).expect("a key file"));
    if let Ok(info) = key_info(ObjectId::of(data), data) {
        assert!(!info.label.contains('\n'));
    }
    assert!(unlock(&repository, data, &opener).is_err());
}

/// A repository's file, and anything as a name or a plain object: a repository's file says the same
/// again; names are canonical.
pub fn repository_file(data: &[u8]) {
    if let Ok(file) = RepositoryFile::decode(data) {
        assert_eq!(RepositoryFile::decode(&file.encode()), Ok(file));
    }
    if let Some((name, text)) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| Some((ObjectName::parse(text)?, text)))
    {
        assert_eq!(name.to_string(), text);
    }
    let sealer = Sealer::plain(RepositoryId([7; 16]));
    for kind in [
        SealedKind::Pack,
        SealedKind::Index,
        SealedKind::Maps,
        SealedKind::Record,
        SealedKind::IndexParts,
    ] {
        let _ = sealer.open(kind, &ObjectId::of(data), data);
        let _ = vellum_backup::seal::bundle_parts(&sealer, kind, &ObjectId::of(data), data);
    }
    if let Ok(index) = IndexObject::open(&sealer, &ObjectId::of(data), data) {
        let again = index.seal(&sealer).expect("it seals");
        let opened = IndexObject::open(&sealer, &again.object.id, &again.object.bytes);
        assert_eq!(opened.expect("it opens").chunk_count(), index.chunk_count());
    }
}

/// A sent file, as it came and with the digest that its bytes have: objects of ours or nothing, and
/// nothing if an end is missing or too much.
pub fn stream(data: &[u8]) {
    let _ = read_any(data);
    let mut whole = [data, &ChunkHash::of_chunk(data).0].concat();
    if read_any(&whole) == 0 {
        return;
    }
    assert!(data.starts_with(b"VlmStrm1") && data.ends_with(&[0, 0]));
    assert_eq!(read_any(&whole[..whole.len() - 1]), 0, "its end is missing");
    let middle = data.len() / 2;
    whole[middle] ^= 1;
    assert_eq!(read_any(&whole), 0, "a bit of it is another");
    whole[middle] ^= 1;
    whole.push(0);
    assert_eq!(read_any(&whole), 0, "something follows its end");
}
