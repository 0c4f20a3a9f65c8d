//! The hot paths: naming chunks, telling zeros, maps, chains, frames, finding known chunks, what
//! guests do, sealing.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use vellum_backup::format::RepositoryId;
use vellum_backup::seal::{SealedKind, Sealer, Secrets};
use vellum_benches::{MemoryDisk, deep_image, deepen, import, name, new_store};
use vellum_core::frame::FrameHeader;
use vellum_core::hash::{ChunkHash, hash_chunks, is_zero};
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run};
use vellum_core::tree::NodeRef;
use vellum_core::units::{ChunkId, LayerId, PageIndex};
use vellum_store::parity::ParityShare;
use vellum_store::{ImageInput, Unwatched};

const CHUNK_LEN: usize = 4096;

fn hashing(criterion: &mut Criterion) {
    let disk = MemoryDisk::half_noise(256 * CHUNK_LEN, 1).0;
    let chunks: Vec<&[u8]> = disk.chunks_exact(CHUNK_LEN).collect();
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(disk.len() as u64));
    group.bench_function("batch", |bencher| {
        bencher.iter(|| hash_chunks(black_box(&chunks)));
    });
    group.bench_function("one by one", |bencher| {
        bencher.iter(|| {
            chunks
                .iter()
                .map(|chunk| ChunkHash::of_chunk(chunk))
                .collect::<Vec<_>>()
        });
    });
    let zeros = vec![0; disk.len()];
    group.bench_function("zero test of zeros", |bencher| {
        bencher.iter(|| {
            zeros
                .chunks_exact(CHUNK_LEN)
                .all(|chunk| is_zero(black_box(chunk)))
        });
    });
    group.finish();
}

/// A page with `runs` runs of chance.
fn page(runs: usize, seed: u64) -> Page {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut page = Page::new();
    for _ in 0..runs {
        let start = random.u16(..PAGE_SPAN - 4);
        page.set_run(Run {
            start,
            len: 4,
            slot: PageEntry::Chunk(ChunkId(random.u64(..1 << 30))),
        });
    }
    page
}

fn maps(criterion: &mut Criterion) {
    let (upper, lower) = (page(20, 1), page(200, 2));
    let bytes = lower.encode(LayerId(1), PageIndex(2));
    let mut group = criterion.benchmark_group("page");
    group.bench_function("overlay", |bencher| {
        bencher.iter(|| black_box(&upper).overlay_on(black_box(&lower), PAGE_SPAN));
    });
    group.bench_function("encode 200 runs", |bencher| {
        bencher.iter(|| black_box(&lower).encode(LayerId(1), PageIndex(2)));
    });
    group.bench_function("decode 200 runs", |bencher| {
        bencher.iter(|| Page::decode(LayerId(1), PageIndex(2), black_box(&bytes)));
    });
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let header = FrameHeader::new(
        (0..16).map(|at| (ChunkId(at), ChunkHash::of_chunk(&at.to_le_bytes()))),
        20_000,
    );
    let bytes = header.encode();
    criterion.bench_function("frame header decode", |bencher| {
        bencher.iter(|| FrameHeader::decode(ChunkId(0), black_box(&bytes)));
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = new_store(&folder.path().join("store"));
    let len = 256 << 20;
    let image = import(
        &store,
        ImageInput::of_source(Box::new(MemoryDisk::half_noise(len, 3)), "noise".to_owned()),
        "noise",
    );
    let disk = store
        .open_disk(NodeRef::Image(image))
        .expect("just imported");
    let mut random = fastrand::Rng::with_seed(4);
    let mut buffer = vec![0; 4096];
    // Four times the cache: three reads in four decode a frame.
    criterion.bench_function("read 4 KiB at random, mostly cold", |bencher| {
        bencher.iter(|| {
            disk.read_at(&mut buffer, random.u64(..len as u64 / 4096) * 4096)
                .expect("sound");
        });
    });
    criterion.bench_function("read 4 KiB at random, warm", |bencher| {
        bencher.iter(|| {
            disk.read_at(&mut buffer, random.u64(..4096) * 4096)
                .expect("sound");
        });
    });
}

fn chains(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = new_store(&folder.path().join("store"));
    let mut group = criterion.benchmark_group("resolve a page");
    for depth in [1, 1000] {
        let node = deep_image(&store, &format!("deep{depth}"), 64 << 20, depth);
        let disk = store.open_disk(node).expect("just made");
        let mut page = 0;
        group.bench_function(format!("warm, depth {depth}"), |bencher| {
            bencher.iter(|| {
                page = (page + 1) % 16;
                disk.resolve_page(PageIndex(page)).expect("sound")
            });
        });
    }
    group.finish();
}

fn dedup(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = new_store(&folder.path().join("store"));
    let len = 64 << 20;
    let disk =
        || ImageInput::of_source(Box::new(MemoryDisk::half_noise(len, 5)), "noise".to_owned());
    let _ = import(&store, disk(), "first");
    let mut group = criterion.benchmark_group("dedup");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(len as u64));
    let mut count = 0;
    group.bench_function("import of a known disk", |bencher| {
        bencher.iter_batched(
            disk,
            |disk| {
                count += 1;
                import(&store, disk, &format!("again{count}"))
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// Benchmarks the most frequent requests of a guest, without a protocol around them.
fn guests(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = new_store(&folder.path().join("store"));
    let len = 32 << 20;
    let base = import(
        &store,
        ImageInput::of_source(Box::new(MemoryDisk::half_noise(len, 6)), "noise".to_owned()),
        "base",
    );
    let mut group = criterion.benchmark_group("live");
    group.sample_size(20);
    let mut buffer = [0; CHUNK_LEN];
    for depth in [1, 1000] {
        let image = store
            .create_child(&name(&format!("deep{depth}")), NodeRef::Image(base), None)
            .expect("a free name")
            .image_id();
        let live = deepen(&store, image, depth);
        let mut random = fastrand::Rng::with_seed(7);
        group.bench_function(
            format!("read 4 KiB at random, warm, depth {depth}"),
            |bencher| {
                bencher.iter(|| {
                    live.read_at(&mut buffer, random.u64(..len as u64 / 4096) * 4096)
                        .expect("sound");
                });
            },
        );
    }
    let image = store
        .create_image(&name("written"), 1 << 30)
        .expect("a free name")
        .image_id();
    let live = store.open_live(image).expect("nobody else writes");
    let mut random = fastrand::Rng::with_seed(8);
    group.bench_function("write 32 times 4 KiB at random and flush", |bencher| {
        bencher.iter(|| {
            for _ in 0..32 {
                random.fill(&mut buffer);
                live.write_at(&buffer, random.u64(..1 << 18) * 4096)
                    .expect("room");
            }
            live.flush().expect("room");
        });
    });
    group.finish();
}

/// Benchmarks the sealing of a push and the opening of a restore: the work on every frame beside
/// reading and writing it.
fn sealing(criterion: &mut Criterion) {
    let id = RepositoryId([7; 16]);
    let secrets = Secrets::generate().expect("random bytes");
    let mut body = vec![0; 64 << 10];
    fastrand::Rng::with_seed(9).fill(&mut body);
    let mut group = criterion.benchmark_group("sealing");
    group.throughput(Throughput::Bytes(body.len() as u64));
    for (what, sealer) in [
        ("encrypted", Sealer::encrypted(id, &secrets)),
        ("plain", Sealer::plain(id)),
    ] {
        let part = sealer
            .seal_part(SealedKind::Pack, &body)
            .expect("short enough");
        group.bench_function(format!("seal 64 KiB, {what}"), |bencher| {
            bencher.iter(|| sealer.seal_part(SealedKind::Pack, &body));
        });
        group.bench_function(format!("open 64 KiB, {what}"), |bencher| {
            bencher.iter(|| sealer.open_part(SealedKind::Pack, &part));
        });
    }
    group.finish();
}

/// Protecting a store that was not, and looking at all of it: bytes of its tables a second.
fn parity(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = new_store(&folder.path().join("store"));
    let mut noise = vec![0; 256 << 20];
    fastrand::Rng::with_seed(10).fill(&mut noise);
    let input = ImageInput::of_source(Box::new(MemoryDisk(noise)), "noise".to_owned());
    let _ = import(&store, input, "noise");
    let share = |percent: u16| ParityShare::new(percent * 10);
    let protect = |percent: u16| {
        store.set_parity_share(None).expect("room");
        store.set_parity_share(share(percent)).expect("room");
        store.protect_all(&Unwatched).expect("room")
    };
    let mut group = criterion.benchmark_group("parity");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(protect(2).bytes_read));
    for percent in [2, 50] {
        group.bench_function(format!("encode, {percent} %"), |bencher| {
            bencher.iter(|| protect(percent));
        });
        group.bench_function(format!("verify, {percent} %"), |bencher| {
            bencher.iter(|| store.heal_by_parity(true, &Unwatched).expect("readable"));
        });
    }
    group.finish();
}

criterion_group!(
    benches, hashing, maps, frames, chains, dedup, guests, sealing, parity
);
criterion_main!(benches);
