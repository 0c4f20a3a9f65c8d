//! Fuzz bodies for what the store reads of its own bytes, past the checksum: a checksum stops
//! chance, not an attacker who can compute it. Each panics only when a promise of an encoding is
//! broken: decoders are total, and only what an encoder writes is accepted.

use vellum_core::frame::{FrameHeader, SPAN_MAX, StoredPayload, encode_reference};
use vellum_core::name::{NAME_LEN_MAX, Name, NodeSpec};
use vellum_core::page::{PAGE_SPAN, Page, PageEntry};
use vellum_core::solid::SolidBlock;
use vellum_core::units::{ChunkId, LayerId, PageIndex, SolidNumber};

const CHECKSUM_LEN: usize = 8;

/// `encoded` without its checksum.
fn body(encoded: &[u8]) -> &[u8] {
    &encoded[..encoded.len() - CHECKSUM_LEN]
}

/// A page: runs in order, inside, merged; the same bytes again.
pub fn page(data: &[u8]) {
    let Ok(page) = Page::decode_body(data) else {
        return;
    };
    let mut end = 0;
    for run in page.runs() {
        assert!(
            run.len > 0 && run.start >= end && run.end_position() <= PAGE_SPAN,
            "{run:?} after {end}"
        );
        assert_ne!(run.slot, PageEntry::Absent, "absent is not written");
        end = run.end_position();
    }
    assert!(
        page.runs().len() <= data.len() / 2,
        "a run takes at least two bytes"
    );
    assert_eq!(
        body(&page.encode(LayerId(1), PageIndex(2))),
        data,
        "one page has one encoding"
    );
    let (chunks, zeros) = page.count_entries();
    let slots = (0..PAGE_SPAN).map(|at| page.entry_at(at));
    let (seen_chunks, seen_zeros) = slots.fold((0, 0), |(chunks, zeros), slot| match slot {
        PageEntry::Absent => (chunks, zeros),
        PageEntry::Zero => (chunks, zeros + 1),
        PageEntry::Chunk(_) => (chunks + 1, zeros),
    });
    assert_eq!((chunks, zeros), (seen_chunks, seen_zeros));
    assert_eq!(page.overlay_on(&Page::new(), PAGE_SPAN), page);
    assert_eq!(Page::new().overlay_on(&page, PAGE_SPAN), page);
}

/// A frame header at any place: rising ids with names; the same bytes again.
pub fn frame_header(data: &[u8]) {
    let Some((first, data)) = data.split_first_chunk::<8>() else {
        return;
    };
    let first = ChunkId(u64::from_be_bytes(*first));
    let Ok(header) = FrameHeader::decode_body(first, data) else {
        return;
    };
    assert_eq!(header.first_id(), first);
    assert!(header.end_id().0 - first.0 <= u64::from(SPAN_MAX));
    for (rank, (id, hash)) in header.chunk_hashes().enumerate() {
        assert_eq!(
            (header.payload_index(id), header.chunk_hash(id)),
            (Some(rank), Some(hash))
        );
    }
    assert_eq!(header.payload_index(header.end_id()), None);
    assert_eq!(body(&header.encode()), data, "one header has one encoding");
}

/// A frame payload: the same bytes again, and decompression fills exactly what was announced or
/// fails.
pub fn frame_payload(data: &[u8]) {
    let payload = match StoredPayload::decode_body(data) {
        Ok(StoredPayload::Own(payload)) => payload,
        Ok(StoredPayload::Solid { place, plain_len }) => {
            let encoded = encode_reference(ChunkId(3), place, plain_len);
            assert_eq!(body(&encoded), data, "one reference has one encoding");
            return;
        }
        Err(_) => return,
    };
    assert_eq!(
        body(&payload.encode(ChunkId(3))),
        data,
        "one payload has one encoding"
    );
    if let Ok(plain) = vellum_store::codec::decompress_frame(
        payload.codec,
        payload.compressed,
        payload.plain_len as usize,
    ) {
        assert_eq!(
            plain.len(),
            payload.plain_len as usize,
            "decoding fills what was announced"
        );
    }
}

/// A solid block: the same bytes again, members side by side, and decompression as of a payload.
pub fn solid_block(data: &[u8]) {
    let Ok(block) = SolidBlock::decode_body(data) else {
        return;
    };
    assert_eq!(
        body(&block.encode(SolidNumber(3))),
        data,
        "one block has one encoding"
    );
    let end = block.places().fold(0, |end, (_, place)| {
        assert_eq!(place.start, end, "members lie side by side");
        place.end
    });
    assert_eq!(end, block.plain_len());
    let plain_len = end as usize;
    if let Ok(plain) =
        vellum_store::codec::decompress_frame(block.codec, block.compressed, plain_len)
    {
        assert_eq!(plain.len(), plain_len, "decoding fills what was announced");
    }
}

/// The records of the store, each kind: an error or a value, whatever the bytes.
pub fn records(data: &[u8]) {
    let _ = vellum_store::records::decode_any(data);
}

/// The beginning of a parity group's file: one head has one encoding.
pub fn parity_group(data: &[u8]) {
    let _ = vellum_store::parity::decode_any_group(data);
}

/// The small files of a closed store: one copy has one encoding, and names no other file.
pub fn parity_rest(data: &[u8]) {
    let _ = vellum_store::parity::decode_any_rest(data);
}

/// A name: harmless, and itself again; a node's name falls into its parts.
pub fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let spec = NodeSpec::parse(text);
    let joined = spec
        .snapshot
        .as_ref()
        .map_or(spec.image.clone(), |snapshot| {
            format!("{}@{snapshot}", spec.image)
        });
    assert_eq!(joined, text, "nothing is lost of a node's name");
    let Ok(name) = Name::new(text) else { return };
    assert_eq!((name.as_str(), name.to_string().as_str()), (text, text));
    assert!(!text.is_empty() && text.len() <= NAME_LEN_MAX && text != "." && text != "..");
    assert!(
        !text.contains(['/', '\\', '@', '\0', '\n', '\u{1b}', '\u{202e}'])
            && !text.starts_with('-')
    );
}
