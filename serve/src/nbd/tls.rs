//! A server's identity under TLS, and whose certificates it asks for. The files are named as qemu
//! and nbdkit name them.
//!
//! Keys of a kind that TLS does not take here are named when the server starts, in its own files
//! and in those of the authority. A client with such a key shows no certificate at all, and is told
//! of in the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{ParsedCertificate, ServerConfig, WebPkiClientVerifier};
use rustls::{CertificateError, PeerIncompatible, RootCertStore};

use super::key_kind::{KeyKind, WORKING_KEYS, with_whole_secret};
use crate::error::ServeError;

/// Requirement that clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They need none.
    NotAsked,
    /// They need one that an authority in `ca-cert.pem` signed, and that `ca-crl.pem`, if it is
    /// there, does not revoke.
    Required,
}

/// The certificate and key of a server.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    pub(super) config: Arc<ServerConfig>,
}

impl TlsIdentity {
    /// Reads `server-cert.pem` and `server-key.pem` in `folder`, and if clients are asked for
    /// certificates `ca-cert.pem` and `ca-crl.pem`. An error: a file is missing (only `ca-crl.pem`
    /// may), unreadable or not what its name says, or the key is not the certificate's. Files that
    /// change later are not read again.
    pub fn load_from(folder: &Path, clients: ClientCertificates) -> Result<Self, ServeError> {
        let chain: Vec<CertificateDer<'static>> = read_all(&folder.join("server-cert.pem"))?;
        let key_path = folder.join("server-key.pem");
        let key = PrivateKeyDer::from_pem_file(&key_path)
            .map_err(|error| unreadable_error(&key_path, &error))?;
        let kind = KeyKind::of_private(&key);
        check_kind(&key_path, &kind, kind.can_sign())?;
        let key = with_whole_secret(key);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(refused_error)?;
        let builder = match clients {
            ClientCertificates::NotAsked => builder.with_no_client_auth(),
            ClientCertificates::Required => {
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    read_authorities(folder)?,
                    provider,
                );
                let verifier = verifier
                    .with_crls(read_revocations(folder)?)
                    .only_check_end_entity_revocation();
                builder.with_client_cert_verifier(verifier.build().map_err(refused_error)?)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(refused_error)?;
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The same for a server of another protocol.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

fn read_authorities(folder: &Path) -> Result<Arc<RootCertStore>, ServeError> {
    let mut roots = RootCertStore::empty();
    let path = folder.join("ca-cert.pem");
    for certificate in read_all::<CertificateDer<'static>>(&path)? {
        if let Ok(parsed) = ParsedCertificate::try_from(&certificate) {
            let kind = KeyKind::of_public(&parsed.subject_public_key_info());
            check_kind(&path, &kind, kind.can_verify())?;
        }
        roots.add(certificate).map_err(refused_error)?;
    }
    Ok(Arc::new(roots))
}

fn read_revocations(
    folder: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, ServeError> {
    let path = folder.join("ca-crl.pem");
    // Only a list that is certainly not there is none: one that cannot be read must not let revoked
    // clients in.
    match path.try_exists() {
        Ok(false) => Ok(Vec::new()),
        _ => read_all(&path),
    }
}

/// All sections of one kind in a file, at least one.
fn read_all<T: PemObject>(path: &Path) -> Result<Vec<T>, ServeError> {
    let sections = T::pem_file_iter(path).map_err(|error| unreadable_error(path, &error))?;
    let found: Vec<T> = sections
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable_error(path, &error))?;
    if found.is_empty() {
        Err(unreadable_error(path, &pem::Error::NoItemsFound))
    } else {
        Ok(found)
    }
}

fn check_kind(path: &Path, kind: &KeyKind, works: bool) -> Result<(), ServeError> {
    if works {
        return Ok(());
    }
    let text = format!("a key of the kind {kind} does not work here ({WORKING_KEYS})");
    Err(ServeError::Certificate(path.to_owned(), text))
}

/// Explains to a person why a handshake failed.
pub(super) fn explain_tls_error(error: &rustls::Error) -> String {
    let is_about_keys = matches!(
        error,
        rustls::Error::NoCertificatesPresented
            | rustls::Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon)
            | rustls::Error::InvalidCertificate(
                CertificateError::UnsupportedSignatureAlgorithmContext { .. }
                    | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
            )
    );
    if is_about_keys {
        format!("TLS: {error} ({WORKING_KEYS})")
    } else {
        format!("TLS: {error}")
    }
}

fn unreadable_error(path: &Path, error: &pem::Error) -> ServeError {
    ServeError::Certificate(PathBuf::from(path), error.to_string())
}

fn refused_error(error: impl std::fmt::Display) -> ServeError {
    ServeError::Tls(error.to_string())
}
