//! Images made by hand. That real ones read as `VMware` meant them is shown by
//! `tests/it/foreign.rs`.

use super::*;
use crate::NoCompanions;
use crate::double::RepeatFirst;
use vellum_core::source::{ExtentKind, ImageSource};

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Four grains of 4 KiB: stored, zeros (by flag), nothing, stored.
fn hosted(flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 3 * 512];
    put(&mut bytes, 0, b"KDMV");
    put(&mut bytes, 4, &1_u32.to_le_bytes());
    put(&mut bytes, 8, &flags.to_le_bytes());
    put(&mut bytes, 12, &32_u64.to_le_bytes());
    put(&mut bytes, 20, &8_u64.to_le_bytes());
    put(&mut bytes, 44, &4_u32.to_le_bytes());
    put(&mut bytes, 56, &1_u64.to_le_bytes());
    put(
        &mut bytes,
        77,
        &u16::from(flags & (1 << 16) != 0).to_le_bytes(),
    );
    put(&mut bytes, 512, &2_u32.to_le_bytes());
    for (number, entry) in [3_u32, 1, 0, 11].into_iter().enumerate() {
        put(&mut bytes, 1024 + 4 * number, &entry.to_le_bytes());
    }
    bytes.extend([0xaa; 4096]);
    bytes.extend([0xbb; 4096]);
    bytes
}

fn opened(bytes: Vec<u8>) -> Result<impl ImageSource, SourceError> {
    open_image(Arc::new(bytes), Arc::new(RepeatFirst), &NoCompanions)
}

#[test]
fn a_zero_grain_is_told_apart_from_one_that_is_not_there() {
    let image = opened(hosted(1 << 2)).expect("opens");
    let kind = |grain: u64| image.extent_at(grain * 4096).expect("told").kind;
    assert_eq!(
        [kind(0), kind(1), kind(2), kind(3)],
        [
            ExtentKind::Data,
            ExtentKind::Zero,
            ExtentKind::Absent,
            ExtentKind::Data
        ]
    );
    let mut content = vec![1; 4 * 4096];
    image.read_at(&mut content, 0).expect("read");
    assert!(content[..4096].iter().all(|byte| *byte == 0xaa));
    assert!(content[4096..12_288].iter().all(|byte| *byte == 0));
    assert!(content[12_288..].iter().all(|byte| *byte == 0xbb));
    // Without the flag grain 1 is a place: the directory's.
    assert_eq!(
        opened(hosted(0))
            .expect("opens")
            .extent_at(4096)
            .expect("told")
            .kind,
        ExtentKind::Data
    );
}

#[test]
fn a_compressed_grain_is_read_with_and_without_a_marker() {
    for markers in [0, 1 << 17] {
        let mut bytes = hosted((1 << 16) | markers);
        put(&mut bytes, 1024, &[0; 16]);
        put(&mut bytes, 1024, &3_u32.to_le_bytes());
        let sum = super::adler32::adler32(&[7; 4096]).to_be_bytes();
        let stream = [&[0x78, 0x9c, 7, 7, 7][..], &sum].concat();
        let at = if markers == 0 {
            1536
        } else {
            put(&mut bytes, 1536, &0_u64.to_le_bytes());
            put(&mut bytes, 1536 + 8, &(stream.len() as u32).to_le_bytes());
            1536 + 12
        };
        put(&mut bytes, at, &stream);
        let image = opened(bytes.clone()).expect("opens");
        let mut content = [0; 100];
        image.read_at(&mut content, 4000).expect("read");
        // The codec of the tests repeats the stream's first byte.
        assert!(content[..96].iter().all(|byte| *byte == 7), "{markers}");
        assert!(content[96..].iter().all(|byte| *byte == 0), "{markers}");
        // Content that is not what was compressed.
        let mut damaged = bytes.clone();
        put(&mut damaged, at + 2, &[8; 3]);
        let damaged = opened(damaged).expect("opens");
        assert!(damaged.read_at(&mut content, 0).is_err(), "{markers}");
        // A stream that is none.
        put(&mut bytes, at, &[0; 2]);
        assert!(
            opened(bytes)
                .expect("opens")
                .read_at(&mut content, 0)
                .is_err()
        );
    }
}

#[test]
fn a_descriptor_opens_no_file_that_the_caller_does_not_give() {
    struct One;
    impl Companions for One {
        fn open_companion(
            &self,
            format: &'static str,
            name: &str,
        ) -> Result<Arc<dyn ReadAt>, SourceError> {
            match name {
                "disk-flat.vmdk" => Ok(Arc::new(vec![0xcc_u8; 2048])),
                "disk-s001.vmdk" => Ok(Arc::new(hosted(0))),
                _ => NoCompanions.open_companion(format, name),
            }
        }
    }
    let text = |extents: &str| {
        format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{extents}")
            .into_bytes()
    };
    let good = text("RW 2 FLAT \"disk-flat.vmdk\" 1\nRW 1 ZERO\nRW 32 SPARSE \"disk-s001.vmdk\"\n");
    assert!(opened(good.clone()).is_err());
    let image = open_image(Arc::new(good), Arc::new(RepeatFirst), &One).expect("opens");
    assert_eq!(image.len(), 35 * 512);
    let mut content = vec![1; 5 * 512];
    image.read_at(&mut content, 0).expect("read");
    assert!(content[..1024].iter().all(|byte| *byte == 0xcc));
    assert!(content[1024..1536].iter().all(|byte| *byte == 0));
    assert!(content[1536..].iter().all(|byte| *byte == 0xaa));
    for extents in [
        "RW 2 FLAT \"/etc/shadow\" 0\n",
        "RW 2 FLAT \"../x.vmdk\" 0\n",
        "RW 5 FLAT \"disk-flat.vmdk\" 0\n",
        "RW 2 FLAT \"disk-flat.vmdk\" 3\n",
        "RW 33 SPARSE \"disk-s001.vmdk\"\n",
        "RW 2 SPARSE \"disk-flat.vmdk\"\n",
    ] {
        assert!(
            open_image(Arc::new(text(extents)), Arc::new(RepeatFirst), &One).is_err(),
            "{extents}"
        );
    }
}

#[test]
fn a_stream_says_in_its_footer_where_its_directory_is() {
    let mut bytes = hosted(0);
    put(&mut bytes, 56, &u64::MAX.to_le_bytes());
    let mut footer = hosted(0)[..512].to_vec();
    put(&mut footer, 56, &1_u64.to_le_bytes());
    assert!(opened(bytes.clone()).is_err(), "a stream that was cut off");
    bytes.extend(footer);
    bytes.extend([0; 512]);
    let mut content = [0; 16];
    opened(bytes)
        .expect("opens")
        .read_at(&mut content, 0)
        .expect("read");
    assert_eq!(content, [0xaa; 16]);
}

#[test]
fn no_number_in_a_header_leads_out_of_the_file_or_panics() {
    let mut sesparse = vec![0; 64 << 10];
    for (at, value) in [
        (0, 0xcafe_babe_u64),
        (8, 0x0000_0002_0000_0001),
        (16, 64),
        (24, 8),
        (32, 64),
        (128, 1),
        (144, 2),
        (192, 66),
        (512, 0x1000_0000_0000_0000),
        (1024, 0x3000_0000_0000_0000),
        (1032, 0x2000_0000_0000_0000),
    ] {
        put(&mut sesparse, at, &value.to_le_bytes());
    }
    sesparse[66 * 512..67 * 512].fill(0xdd);
    let image = opened(sesparse.clone()).expect("opens");
    let mut content = [0; 4];
    image.read_at(&mut content, 0).expect("read");
    assert_eq!(content, [0xdd; 4]);
    assert_eq!(image.extent_at(4096).expect("told").kind, ExtentKind::Zero);
    assert_eq!(
        image.extent_at(8192).expect("told").kind,
        ExtentKind::Absent
    );
    for (whole, end) in [
        (hosted(1 << 2), 1040),
        (hosted(3 << 16), 1040),
        (sesparse, 1040),
    ] {
        for at in (0..end).step_by(4) {
            for value in [0, 1, 0x7fff_ffff, 0x8000_0000_u32, u32::MAX] {
                let mut bytes = whole.clone();
                put(&mut bytes, at, &value.to_le_bytes());
                let _ = read_facts(&bytes);
                let Ok(image) = opened(bytes) else {
                    continue;
                };
                for offset in [0, 4096, 8192] {
                    if offset + 512 <= image.len() {
                        let _ = image.read_at(&mut [0; 512], offset);
                        let _ = image.extent_at(offset);
                    }
                }
            }
        }
    }
}
