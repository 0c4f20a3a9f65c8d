//! Reasons that a server cannot serve.

use std::io;
use std::path::PathBuf;

/// Reason that a server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error("{0}: cannot listen there: {1}")]
    Listen(String, #[source] io::Error),
    /// A live server has this socket.
    #[error("{0}: another server listens there")]
    InUse(PathBuf),
    /// The place of the socket is taken by a file that is not one.
    #[error("{0}: this is no socket; it is left alone")]
    NotSocket(PathBuf),
    /// The inherited descriptor is no listening stream socket.
    #[error("the inherited descriptor is no listening socket")]
    NotListening,
    /// A certificate, key or revocation list cannot be used.
    #[error("{0}: {1}")]
    Certificate(PathBuf, String),
    /// The certificates do not make a TLS server.
    #[error("TLS: {0}")]
    Tls(String),
    /// The system refused something else.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The server is stopping or has stopped.
    #[error("the server is stopping")]
    Stopping,
}
