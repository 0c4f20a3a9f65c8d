//! Images made by hand.

use super::*;

fn with_checksum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at..at + 4].fill(0);
    let sum = bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
    bytes
}

fn footer(kind: u32, creator: [u8; 4], len: u64, geometry: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, COOKIE);
    put(12, &0x0001_0000_u32.to_be_bytes());
    put(16, &512_u64.to_be_bytes());
    put(28, &creator);
    put(48, &len.to_be_bytes());
    put(56, &geometry);
    put(60, &kind.to_be_bytes());
    put(68, &[5; 16]);
    with_checksum(bytes, 64)
}

/// Blocks of 4 KiB; the first is there with every second sector marked, the second is not.
fn sparse(kind: u32) -> Vec<u8> {
    let foot = footer(kind, *b"win ", 8192, [0, 1, 1, 1]);
    let mut header = vec![0; 1024];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, HEADER_COOKIE);
    put(16, &1536_u64.to_be_bytes());
    put(24, &0x0001_0000_u32.to_be_bytes());
    put(28, &2_u32.to_be_bytes());
    put(32, &4096_u32.to_be_bytes());
    put(40, &[6; 16]);
    put(
        64,
        &"p.vhd"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect::<Vec<_>>(),
    );
    let mut table = [4_u32.to_be_bytes(), NOT_ALLOCATED.to_be_bytes()].concat();
    table.resize(512, 0);
    let mut bits = vec![0; 512];
    bits[0] = 0b1010_1010;
    let header = with_checksum(header, 36);
    [foot.clone(), header, table, bits, vec![0xcc; 4096], foot].concat()
}

#[test]
fn a_sector_whose_bit_is_not_set_is_the_parents_in_a_differencing_image_only() {
    use vellum_core::source::ExtentKind;
    let child = open_image(Arc::new(sparse(TYPE_DIFFERENCING))).expect("opens");
    let extent = |offset| {
        child
            .extent_at(offset)
            .map(|extent| (extent.len, extent.kind))
    };
    assert_eq!(extent(0).expect("told"), (512, ExtentKind::Data));
    assert_eq!(extent(512).expect("told"), (512, ExtentKind::Absent));
    assert_eq!(
        extent(3584).expect("told"),
        (512 + 4096, ExtentKind::Absent)
    );
    let whole = open_image(Arc::new(sparse(TYPE_DYNAMIC))).expect("opens");
    assert_eq!(whole.extent_at(0).expect("told").len, 4096);
    let mut content = vec![0; 8192];
    whole.read_at(&mut content, 0).expect("read");
    assert!(content[..4096].iter().all(|byte| *byte == 0xcc));
    assert!(content[4096..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_parent_is_named_and_not_opened() {
    let parent = read_facts(&sparse(TYPE_DIFFERENCING))
        .expect("told")
        .parent
        .expect("a parent");
    assert_eq!(parent.identity, Some(DiskIdentity::Uuid([6; 16])));
    assert_eq!(parent.hints, ["p.vhd"]);
    assert_eq!(
        read_facts(&sparse(TYPE_DYNAMIC)).expect("told").parent,
        None
    );
}

#[test]
fn the_length_is_the_one_that_the_maker_goes_by() {
    // 2 cylinders, 1 head, 3 sectors: 3,072 bytes; the length field says 4,096.
    for (creator, len) in [
        (b"vpc ", 3072),
        (b"vs  ", 3072),
        (b"qemu", 3072),
        (b"win ", 4096),
        (b"qem2", 4096),
        (b"vbox", 4096),
    ] {
        let foot = footer(TYPE_FIXED, *creator, 4096, [0, 2, 1, 3]);
        let image = open_image(Arc::new([vec![1; 4096], foot].concat())).expect("opens");
        assert_eq!(image.len(), len, "{}", creator.escape_ascii());
    }
    let largest = footer(TYPE_FIXED, *b"vpc ", 4096, [0xff, 0xff, 16, 255]);
    assert_eq!(
        open_image(Arc::new([vec![1; 4096], largest].concat()))
            .expect("opens")
            .len(),
        4096
    );
}

#[test]
fn a_damaged_footer_is_replaced_by_its_copy_and_a_wrong_header_checksum_is_noted() {
    let mut bytes = sparse(TYPE_DYNAMIC);
    let end = bytes.len();
    bytes[end - 1] ^= 1;
    assert_eq!(read_facts(&bytes).expect("told").notes, [""; 0]);
    bytes[511] ^= 1;
    assert_eq!(read_facts(&bytes).expect("told").notes.len(), 1);
    bytes[512 + 1023] ^= 1;
    assert_eq!(read_facts(&bytes).expect("told").notes.len(), 2);
    assert!(open_image(Arc::new(bytes)).is_ok());
}

#[test]
fn no_number_in_a_header_leads_out_of_the_file_or_panics() {
    let whole = sparse(TYPE_DIFFERENCING);
    for at in (0..2048).step_by(4) {
        for value in [0, 1, 0x7fff_ffff, 0x8000_0000_u32, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            let _ = read_facts(&bytes);
            let Ok(image) = open_image(Arc::new(bytes)) else {
                continue;
            };
            for offset in [0, 512, 4096] {
                if offset + 512 <= image.len() {
                    let _ = image.read_at(&mut [0; 512], offset);
                    let _ = image.extent_at(offset);
                }
            }
        }
    }
}
