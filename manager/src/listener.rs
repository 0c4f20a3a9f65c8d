//! Connections: how many there may be, how long a handshake or a request may take to come, and who
//! goes when all places are taken. It knows HTTP's bytes through hyper, TLS through tokio-rustls,
//! and no page.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{SocketType, getsockname};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// Connections at once: a browser has six for each window at most.
const CONNECTIONS_MAX: usize = 128;
/// Bytes of a request's line and headers: browsers send one or two thousand.
const HEAD_LEN_MAX: usize = 16 << 10;
/// Headers of a request: browsers send some twenty.
const HEADERS_MAX: usize = 64;
/// The longest time in which a request's head comes, or the next request on a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest time of a TLS handshake: some round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first byte of a TLS handshake: no request of HTTP begins so.
const HANDSHAKE_BYTE: u8 = 0x16;
/// The answer to who forgot the `s`.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 42\r\n\r\n\
    this server talks TLS: begin with https://";
/// The pause of accepting when the system has no descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// The other end of a connection, and the mark that somebody signed in has asked on it.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionPeer {
    address: IpAddr,
    is_known: Arc<AtomicBool>,
}

impl ConnectionPeer {
    fn new(address: IpAddr) -> Self {
        Self {
            address,
            is_known: Arc::default(),
        }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    pub(crate) fn mark_known(&self) {
        self.is_known.store(true, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }
}

/// The connections that there are.
#[derive(Default)]
struct ConnectionTable {
    places: Mutex<ConnectionPlaces>,
}

#[derive(Default)]
struct ConnectionPlaces {
    taken: BTreeMap<u64, (AbortHandle, ConnectionPeer)>,
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

/// Takes a socket that somebody else made and listens at, as systemd does.
pub(crate) fn take_socket(socket: OwnedFd) -> io::Result<StdListener> {
    let is_listening = socket_type(&socket)? == SocketType::STREAM && socket_acceptconn(&socket)?;
    let is_internet = SocketAddr::try_from(getsockname(&socket)?).is_ok();
    if !is_listening || !is_internet {
        return Err(io::Error::other("it is no TCP socket that listens"));
    }
    let listener = StdListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes connections in until `stop` is dropped or used; with `tls`, none without it.
pub(crate) async fn accept_connections(
    listener: StdListener,
    tls: Option<TlsAcceptor>,
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
            Ok((socket, address)) if table.make_room() => {
                let peer = ConnectionPeer::new(address.ip());
                let serve = serve_connection(socket, tls.clone(), routes.clone(), peer.clone());
                seat_connection(serve, peer, &table);
            }
            Ok((socket, _)) => drop(socket),
            Err(_) => tokio::time::sleep(EXHAUSTED_PAUSE).await,
        }
    }
}

fn seat_connection(
    serve: impl Future<Output = ()> + Send + 'static,
    peer: ConnectionPeer,
    table: &Arc<ConnectionTable>,
) {
    let mut places = table.lock_places();
    let number = places.next;
    places.next += 1;
    let own_table = Arc::clone(table);
    let task = tokio::spawn(async move {
        serve.await;
        own_table.lock_places().taken.remove(&number);
    });
    places.taken.insert(number, (task.abort_handle(), peer));
}

/// Serves one connection. Whatever fails on it concerns its peer alone.
async fn serve_connection(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    routes: Router,
    peer: ConnectionPeer,
) {
    let _ = socket.set_nodelay(true);
    let Some(tls) = tls else {
        return serve_requests(socket, routes, peer).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(socket, tls));
    if let Ok(Some(socket)) = handshake.await {
        serve_requests(socket, routes, peer).await;
    }
}

/// The same connection under TLS. None if the peer does not begin it, or does it wrong.
async fn shake_hands(
    socket: TcpStream,
    tls: TlsAcceptor,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let mut first = [0];
    match socket.peek(&mut first).await {
        Ok(1) if first[0] == HANDSHAKE_BYTE => tls.accept(socket).await.ok(),
        Ok(1) => {
            // Read first: what is not read takes the answer along when the socket is closed.
            let _ = socket.try_read(&mut [0; HEAD_LEN_MAX]);
            let _ = socket.try_write(PLAIN_ANSWER);
            None
        }
        _ => None,
    }
}

async fn serve_requests(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    peer: ConnectionPeer,
) {
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
