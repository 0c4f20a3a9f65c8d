//! Differences between points, compared with those of their bytes.

use vellum_core::difference::Difference;
use vellum_core::identity::ContentId;
use vellum_core::tree::NodeRef;

use super::Client;
use super::grower::{CHUNK, Grower, read_all};
use super::trees::present;
use crate::diff::{DiffReport, diff};
use crate::objects::memory::Request;
use crate::reader::Reader;
use crate::testing::seed;

/// The reported difference of each byte: none where both are the same, else whether the second
/// reads as zeros.
fn told(
    reader: &Reader<'_>,
    a: ContentId,
    b: ContentId,
    len: usize,
) -> (Vec<Option<bool>>, DiffReport) {
    let (mut bytes, mut end) = (vec![None; len], 0);
    let mut last = None;
    let report =
        diff(reader, a, b, &mut |Difference {
                                     start,
                                     len,
                                     becomes_zero,
                                 }| {
            assert!(
                len > 0 && (start > end || (start == end && last != Some(becomes_zero))),
                "in order and joined"
            );
            (end, last) = (start + len, Some(becomes_zero));
            bytes[start as usize..end as usize].fill(Some(becomes_zero));
            Ok(())
        });
    (bytes, report.expect("a comparison"))
}

/// The same, from the bytes: to the chunk.
fn expected(a: &[u8], b: &[u8]) -> Vec<Option<bool>> {
    let mut bytes = vec![None; a.len().max(b.len())];
    let common = a.len().min(b.len());
    for start in (0..bytes.len()).step_by(CHUNK as usize) {
        let end = (start + CHUNK as usize).min(bytes.len());
        // Of a last chunk all counts that one of them has of it.
        let chunk = |disk: &[u8]| {
            let mut chunk = disk[start.min(disk.len())..end.min(disk.len())].to_vec();
            chunk.resize(CHUNK as usize, 0);
            chunk
        };
        let becomes_zero = chunk(b).iter().all(|byte| *byte == 0);
        if chunk(a) != chunk(b) {
            bytes[start.min(common)..end.min(common)].fill(Some(becomes_zero));
        }
        bytes[start.max(common).min(end)..end].fill(Some(becomes_zero && a.len() < b.len()));
    }
    bytes
}

#[test]
fn any_two_points_differ_where_their_bytes_do_and_no_data_is_read() {
    let seed = seed();
    for round in 0..3 {
        let mut grower = Grower::new(seed.wrapping_add(round));
        let client = Client::new(round == 0);
        let mut disks: Vec<(ContentId, Vec<u8>)> = Vec::new();
        for _ in 0..3 {
            (0..8).for_each(|_| grower.step());
            client.push(&grower.store).expect("a push");
            let nodes: Vec<NodeRef> = grower.store.tree().all_nodes().collect();
            let shown = present(&grower.store).into_iter().zip(nodes);
            let shown = shown.map(|((_, _, id), sample_node)| {
                (
                    ContentId::parse(&id).expect("an identity"),
                    read_all(&grower.store, sample_node),
                )
            });
            disks.extend(shown);
        }
        let repository = client.open(client.objects()).expect("it opens");
        let reader = Reader::new(&repository);
        client.place.take_log();
        for _ in 0..25 {
            let (a, b) = (
                &disks[grower.random.usize(..disks.len())],
                &disks[grower.random.usize(..disks.len())],
            );
            let expected = expected(&a.1, &b.1);
            let (found, report) = told(&reader, a.0, b.0, expected.len());
            let wrong = found
                .iter()
                .zip(&expected)
                .position(|(found, expected)| found != expected);
            assert!(
                wrong.is_none(),
                "byte {wrong:?} of {}: {:?}",
                expected.len(),
                wrong.map(|at| (found[at], expected[at]))
            );
            let count = |wanted: &dyn Fn(&Option<bool>) -> bool| {
                expected.iter().filter(|byte| wanted(byte)).count() as u64
            };
            let (changed, zeroed) = (
                count(&|byte| byte.is_some()),
                count(&|byte| *byte == Some(true)),
            );
            assert_eq!(
                report,
                DiffReport {
                    changed,
                    zeroed,
                    same: expected.len() as u64 - changed
                }
            );
        }
        let log = client.place.take_log();
        assert!(
            log.iter().all(|(_, name)| !name.starts_with("packs/")),
            "data was read: {log:?}"
        );
        assert!(
            log.iter().any(|(request, _)| *request == Request::GetRange),
            "maps were read: {log:?}"
        );
    }
}
