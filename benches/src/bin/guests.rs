//! Measures the disk of a virtual machine over vhost-user, and the same disk over NBD, in turn:
//! reads of 4 KiB at random, one at a time and 32 at once, and of 1 MiB in order. Figures for
//! people, in rounds, with the medians at the end.
//!
//!     vellum-guests NAME=vhost:SOCKET … NAME=nbd:SOCKET:EXPORT …
//!
//! Any server can be named: `vellum serve --vhost-user`, `qemu-storage-daemon --export
//! vhost-user-blk`, `qemu-nbd`. The first 32 MiB are read once before, so that they are warm.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use vellum_testkit::front_end::{FrontEnd, kind};

/// The range that is read again and again: a part of the disk that every cache holds.
const WARM_LEN: u64 = 32 << 20;
const SMALL: usize = 4096;
const LONG: usize = 1 << 20;
const ROUNDS: usize = 5;
const ROUND_TIME: Duration = Duration::from_secs(2);
const DEPTH: usize = 32;

/// A way to a disk.
enum DiskClient {
    Guest(Box<FrontEnd>),
    Nbd(UnixStream),
}

/// Figures of one server, a round each: reads a second at depth 1 and 32, MiB a second in order.
#[derive(Default)]
struct ServerRates([Vec<f64>; 3]);

fn main() {
    let servers: Vec<(String, String)> = std::env::args()
        .skip(1)
        .filter_map(|word| {
            let (name, place) = word.split_once('=')?;
            Some((name.to_owned(), place.to_owned()))
        })
        .collect();
    let mut rates: Vec<ServerRates> = servers.iter().map(|_| ServerRates::default()).collect();
    for round in 0..ROUNDS {
        for ((name, place), rates) in servers.iter().zip(&mut rates) {
            let mut client = DiskClient::connect(place);
            client.read_in_order(WARM_LEN);
            let figures = [
                client.read_at_random(1, round as u64),
                client.read_at_random(DEPTH, round as u64),
                client.read_in_order(WARM_LEN * 8),
            ];
            println!(
                "{name}: {:.0} and {:.0} reads a second, {:.0} MiB/s",
                figures[0], figures[1], figures[2]
            );
            let all = rates.0.iter_mut().zip(figures);
            all.for_each(|(all, figure)| all.push(figure));
        }
    }
    for ((name, _), rates) in servers.iter().zip(&mut rates) {
        let [one, many, long] = rates.0.each_mut().map(|figures| median(figures));
        println!("median {name}: {one:.0} and {many:.0} reads a second, {long:.0} MiB/s");
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

impl DiskClient {
    fn connect(place: &str) -> Self {
        let words: Vec<&str> = place.split(':').collect();
        match words[..] {
            ["vhost", socket] => {
                let guest = FrontEnd::connect(Path::new(socket), 1, LONG);
                Self::Guest(Box::new(guest.expect("the server takes a guest")))
            }
            ["nbd", socket, export] => Self::Nbd(enter_export(socket, export)),
            _ => panic!("{place}: neither vhost:SOCKET nor nbd:SOCKET:EXPORT"),
        }
    }

    /// Reads of 4 KiB a second, with `depth` under way at once.
    fn read_at_random(&mut self, depth: usize, seed: u64) -> f64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut next = || random.u64(..WARM_LEN / SMALL as u64) * SMALL as u64;
        let mut bytes = vec![0; SMALL];
        let (began, mut count) = (Instant::now(), 0_u64);
        (0..depth).for_each(|slot| self.begin_read(slot, next(), SMALL));
        let mut free = Vec::new();
        while began.elapsed() < ROUND_TIME {
            self.await_reads(&mut bytes, &mut free);
            count += free.len() as u64;
            for slot in free.drain(..) {
                self.begin_read(slot, next(), SMALL);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let mut left = depth;
        while left > 0 {
            self.await_reads(&mut bytes, &mut free);
            left -= free.len();
            free.clear();
        }
        count as f64 / seconds
    }

    /// MiB a second of reads of 1 MiB, four under way at once, over the warm range.
    fn read_in_order(&mut self, len: u64) -> f64 {
        let mut bytes = vec![0; LONG];
        let (began, mut free, mut done) = (Instant::now(), vec![0, 1, 2, 3], 0);
        let (mut next, total) = (0, len / LONG as u64);
        while done < total {
            for slot in free.drain(..) {
                if next < total {
                    self.begin_read(slot, next * LONG as u64 % WARM_LEN, LONG);
                    next += 1;
                }
            }
            self.await_reads(&mut bytes, &mut free);
            done += free.len() as u64;
        }
        total as f64 / began.elapsed().as_secs_f64()
    }

    fn begin_read(&mut self, slot: usize, offset: u64, len: usize) {
        match self {
            Self::Guest(guest) => guest.submit(0, slot, kind::READ, offset / 512, &[], len),
            Self::Nbd(stream) => {
                let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
                request.extend([0; 4]);
                request.extend((slot as u64).to_be_bytes());
                request.extend(offset.to_be_bytes());
                request.extend((len as u32).to_be_bytes());
                stream.write_all(&request).expect("the server reads");
            }
        }
    }

    /// Waits for reads that end, and takes the bytes of each; their slots.
    fn await_reads(&mut self, bytes: &mut [u8], free: &mut Vec<usize>) {
        match self {
            Self::Guest(guest) => {
                let mut ended = guest.finished(0);
                while ended.is_empty() {
                    guest.await_call(0);
                    ended = guest.finished(0);
                }
                free.extend(ended.into_iter().map(|first| usize::from(first) / 3));
            }
            Self::Nbd(stream) => {
                let mut reply = [0; 16];
                stream.read_exact(&mut reply).expect("the server answers");
                assert_eq!(reply[4..8], [0; 4], "a read succeeds");
                stream.read_exact(bytes).expect("the server answers");
                free.push(usize::from(reply[15]));
            }
        }
    }
}

/// Enters an export as the oldest clients do, so that replies are simple.
fn enter_export(socket: &str, export: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("the server listens");
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("it greets");
    let mut wish = 3_u32.to_be_bytes().to_vec();
    wish.extend(b"IHAVEOPT");
    wish.extend(1_u32.to_be_bytes());
    wish.extend((export.len() as u32).to_be_bytes());
    wish.extend(export.as_bytes());
    stream.write_all(&wish).expect("it reads");
    stream.read_exact(&mut [0; 10]).expect("it has the export");
    stream
}
