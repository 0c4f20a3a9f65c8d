//! Compares the amount of reading of a partial verification with that of a full one. `tests/damage`
//! argues that a clean verification means whole points.

use std::sync::Arc;

use vellum_store::Unwatched;

use crate::objects::memory::Memory;
use crate::testing::pusher::{Base, Disk, init, push};
use crate::verify::{VerifyOptions, verify};

/// All parts of the packs together are all packs.
#[test]
fn subsets_cover_every_pack_once() {
    let repository = init(Arc::new(Memory::new()));
    for serial in 0..12_u64 {
        let disk: Disk = [(0, 100 + serial as u16)].into();
        push(&repository, "image", serial, serial, &disk, Base::None).expect("a push");
    }
    let read = |subset| {
        verify(
            &repository,
            &VerifyOptions {
                read_data: true,
                subset,
            },
            &Unwatched,
        )
        .expect("a verification")
        .packs_read
    };
    assert_eq!(
        (1..=5).map(|nth| read(Some((nth, 5)))).sum::<u64>(),
        read(None)
    );
    assert_eq!(read(None), 12);
}
