//! Connections: how many there may be, how long a request may take to come, and who goes when all
//! places are taken. It knows HTTP's bytes through hyper, and no page.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Connections at once: a browser has six for each window at most.
const CONNECTIONS_MAX: usize = 128;
/// Bytes of a request's line and headers: browsers send one or two thousand.
const HEAD_LEN_MAX: usize = 16 << 10;
/// Headers of a request: browsers send some twenty.
const HEADERS_MAX: usize = 64;
/// The longest time in which a request's head comes, or the next request on a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause of accepting when the system has no descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// The mark of a connection on which somebody signed in has asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownPeer(Arc<AtomicBool>);

impl KnownPeer {
    pub(crate) fn mark_known(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The connections that there are.
#[derive(Default)]
struct ConnectionTable {
    places: Mutex<ConnectionPlaces>,
}

#[derive(Default)]
struct ConnectionPlaces {
    taken: BTreeMap<u64, (AbortHandle, KnownPeer)>,
    next: u64,
}

impl ConnectionTable {
    fn lock_places(&self) -> MutexGuard<'_, ConnectionPlaces> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more: the stranger that came first goes. False if all are known.
    fn make_room(&self) -> bool {
        let mut places = self.lock_places();
        if places.taken.len() < CONNECTIONS_MAX {
            return true;
        }
        let stranger = places
            .taken
            .iter()
            .find_map(|(number, (_, peer))| (!peer.is_known()).then_some(*number));
        let removed = stranger.and_then(|number| places.taken.remove(&number));
        removed.is_some_and(|(task, _)| {
            task.abort();
            true
        })
    }
}

/// Listens at `address`, in blocking mode.
pub(crate) fn bind_address(address: SocketAddr) -> io::Result<StdListener> {
    let listener = StdListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes connections in until `stop` is dropped or used.
pub(crate) async fn accept_connections(
    listener: StdListener,
    routes: Router,
    mut stop: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let table = Arc::new(ConnectionTable::default());
    loop {
        let accepted = futures::future::select(Box::pin(listener.accept()), &mut stop).await;
        let futures::future::Either::Left((accepted, _)) = accepted else {
            let places = table.lock_places();
            places.taken.values().for_each(|(task, _)| task.abort());
            return Ok(());
        };
        match accepted {
            Ok((socket, _)) if table.make_room() => seat_connection(socket, &routes, &table),
            Ok((socket, _)) => drop(socket),
            Err(_) => tokio::time::sleep(EXHAUSTED_PAUSE).await,
        }
    }
}

fn seat_connection(socket: TcpStream, routes: &Router, table: &Arc<ConnectionTable>) {
    let peer = KnownPeer::default();
    let mut places = table.lock_places();
    let number = places.next;
    places.next += 1;
    let (own_table, own_peer, routes) = (Arc::clone(table), peer.clone(), routes.clone());
    let task = tokio::spawn(async move {
        serve_connection(socket, routes, own_peer).await;
        own_table.lock_places().taken.remove(&number);
    });
    places.taken.insert(number, (task.abort_handle(), peer));
}

/// Serves one connection. Whatever fails on it concerns its peer alone.
async fn serve_connection(socket: TcpStream, routes: Router, peer: KnownPeer) {
    let _ = socket.set_nodelay(true);
    let service = routes
        .layer(axum::Extension(peer))
        .into_service::<Incoming>();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service));
    let _ = connection.await;
}
