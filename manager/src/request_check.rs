//! The gate: which requests are looked at at all. Pure but for the secrets: it decides from a
//! request's line and headers, before its body is read.
//!
//! In this order: the name by which the browser calls the server (a page of a stranger whose name
//! was pointed at this machine calls it otherwise), where a request that changes something comes
//! from, and the session.

use std::net::SocketAddr;
use std::time::Instant;

use axum::http::header::{CONTENT_LENGTH, COOKIE, HOST, ORIGIN, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Method, Request, StatusCode, Version};

use crate::remote_access::HostName;
use crate::secret::{SECRET_TEXT_LEN, SessionTable};

/// The longest target of a request: names are at most some hundred bytes, and a search is short.
const TARGET_LEN_MAX: usize = 8 << 10;

/// The header with which a page asks for what is new while nobody touches it.
const UNATTENDED: &str = "x-vellum-unattended";

/// The names that the server answers to, and the cookie's.
#[derive(Clone, Debug)]
pub(crate) struct ServerNames {
    /// The first is the one in the URL that is printed.
    hosts: Vec<String>,
    cookie: String,
    transport: PageTransport,
}

/// The protocol that carries the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageTransport {
    /// Plain, within this machine.
    Plain,
    /// Under TLS.
    Tls,
}

impl PageTransport {
    /// The beginning of a page's address.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "http://",
            Self::Tls => "https://",
        }
    }

    /// The attributes of the session's cookie.
    pub(crate) fn cookie_attributes(self) -> &'static str {
        match self {
            Self::Plain => "Path=/; HttpOnly; SameSite=Strict",
            Self::Tls => "Path=/; HttpOnly; SameSite=Strict; Secure",
        }
    }
}

/// The reason why a request is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestRefusal {
    /// It is for a server of another name.
    Misdirected,
    /// It is no request that a browser sends.
    Malformed,
    /// Its target is too long.
    TooLong,
    /// It changes something, and does not come from a page of this server.
    Foreign,
    /// It has no session.
    Stranger,
}

impl RequestRefusal {
    pub(crate) fn status_code(self) -> StatusCode {
        match self {
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::URI_TOO_LONG,
            Self::Foreign => StatusCode::FORBIDDEN,
            Self::Stranger => StatusCode::UNAUTHORIZED,
        }
    }

    pub(crate) fn reason_text(self) -> &'static str {
        match self {
            Self::Misdirected => "this server has another name",
            Self::Malformed => "this is no request of a browser",
            Self::TooLong => "the address is too long",
            Self::Foreign => "only pages of this server change anything",
            Self::Stranger => "sign in first: open the page, or the URL that vellum printed",
        }
    }
}

impl ServerNames {
    /// The names of a server that listens at `address`, which is a loopback one.
    pub(crate) fn of_address(address: SocketAddr) -> Self {
        let port = address.port();
        Self {
            hosts: vec![
                address.to_string(),
                format!("localhost:{port}"),
                format!("127.0.0.1:{port}"),
                format!("[::1]:{port}"),
            ],
            cookie: format!("vellum-{port}"),
            transport: PageTransport::Plain,
        }
    }

    /// The names of a server under TLS that listens at `address`: those that it was given, and
    /// the address itself, if it is one. None if there is no name at all.
    pub(crate) fn of_remote(address: SocketAddr, given: &[HostName]) -> Option<Self> {
        let port = address.port();
        let own = (!address.ip().is_unspecified()).then(|| HostName::of_address(address.ip()));
        let names = given.iter().chain(&own);
        let hosts: Vec<String> = names.map(|name| name.host_header(port)).collect();
        // Browsers take a cookie of this prefix from nobody but this very host, under TLS.
        let cookie = format!("__Host-vellum-{port}");
        (!hosts.is_empty()).then_some(Self {
            hosts,
            cookie,
            transport: PageTransport::Tls,
        })
    }

    /// The address of the first page.
    pub(crate) fn page_url(&self) -> String {
        format!("{}{}/", self.transport.scheme(), self.hosts[0])
    }

    pub(crate) fn transport(&self) -> PageTransport {
        self.transport
    }

    pub(crate) fn cookie_name(&self) -> &str {
        &self.cookie
    }

    /// Checks everything but the session.
    pub(crate) fn check_request<B>(&self, request: &Request<B>) -> Result<(), RequestRefusal> {
        let (headers, uri) = (request.headers(), request.uri());
        // An absolute target names a host of its own, whatever the header says.
        if uri.scheme().is_some() || uri.authority().is_some() {
            return Err(RequestRefusal::Misdirected);
        }
        if !self.is_own_host(headers) {
            return Err(RequestRefusal::Misdirected);
        }
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        if !path.starts_with('/') || request.version() != Version::HTTP_11 {
            return Err(RequestRefusal::Malformed);
        }
        if path.len() > TARGET_LEN_MAX {
            return Err(RequestRefusal::TooLong);
        }
        // No browser sends a body in chunks over this protocol; between two lengths, another
        // program on the way might choose otherwise.
        let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
        if lengths > 1 || headers.contains_key(TRANSFER_ENCODING) {
            return Err(RequestRefusal::Malformed);
        }
        let is_allowed = if is_reading(request.method()) {
            may_read(headers, path)
        } else {
            is_from_own_page(headers, self.transport.scheme())
        };
        if is_allowed {
            Ok(())
        } else {
            Err(RequestRefusal::Foreign)
        }
    }

    fn is_own_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) => self
                .hosts
                .iter()
                .any(|own| own.as_bytes() == host.as_bytes()),
            _ => false,
        }
    }

    /// The session that a request shows, if it shows one that can be.
    pub(crate) fn session_of<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let cookies = headers.get_all(COOKIE).iter();
        let pairs = cookies
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'));
        let mut own = pairs.filter_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == self.cookie).then_some(value)
        });
        match (own.next(), own.next()) {
            (Some(value), None) if value.len() == SECRET_TEXT_LEN => Some(value),
            // Of two, one is a stranger's.
            _ => None,
        }
    }

    /// Checks the session. A request that nobody stands behind does not keep it alive.
    pub(crate) fn check_session<B>(
        &self,
        request: &Request<B>,
        sessions: &SessionTable,
    ) -> Result<(), RequestRefusal> {
        let now = Instant::now();
        let is_there = |session: &str| {
            if is_unattended(request) {
                sessions.is_session(session, now)
            } else {
                sessions.use_session(session, now)
            }
        };
        match self.session_of(request.headers()) {
            Some(session) if is_there(session) => Ok(()),
            _ => Err(RequestRefusal::Stranger),
        }
    }
}

/// True if a page asks by itself: it listens for news, or nobody has touched it for a while.
fn is_unattended<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && (request.uri().path() == "/events" || request.headers().contains_key(UNATTENDED))
}

/// True unless a page of another origin asks: those may lead a person here, and no more.
fn may_read(headers: &HeaderMap, path: &str) -> bool {
    let is = |name: &str, value: &[u8]| {
        headers
            .get_all(name)
            .iter()
            .all(|header| header.as_bytes() == value)
    };
    is("sec-fetch-site", b"same-origin")
        || is("sec-fetch-site", b"none")
        || (path == "/" && is("sec-fetch-mode", b"navigate") && is("sec-fetch-dest", b"document"))
}

/// True if a page of this server sent it. Browsers say so in headers that no page can set. With
/// a policy of no referrer, a form sends an origin of `null`; that counts only where the
/// browser says as well that the page is of the same origin.
fn is_from_own_page(headers: &HeaderMap, scheme: &str) -> bool {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Some(None),
            (Some(value), None) => Some(Some(value.as_bytes().to_vec())),
            _ => None,
        }
    };
    let (Some(site), Some(origin)) = (only("sec-fetch-site"), only(ORIGIN.as_str())) else {
        return false;
    };
    let is_own_origin = |origin: &[u8]| {
        let host = origin.strip_prefix(scheme.as_bytes());
        // The page's own name, not another one of this server.
        host.is_some_and(|host| {
            headers
                .get(HOST)
                .is_some_and(|named| named.as_bytes() == host)
        })
    };
    match (site.as_deref(), origin.as_deref()) {
        (Some(b"same-origin"), None | Some(b"null")) => true,
        (Some(b"same-origin") | None, Some(origin)) => is_own_origin(origin),
        _ => false,
    }
}

/// True for methods that change nothing.
fn is_reading(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}
