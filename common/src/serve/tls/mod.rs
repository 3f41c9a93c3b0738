//! TLS on both sides of a connection, with certificates that are followed as their files change.

mod client;
mod server;

pub use client::{Dialer, DialerSettings, Wire};
pub(super) use server::{ServerTls, server_tls};

use super::watched::Text;
use crate::{Error, Result};
use std::sync::Arc;
use tokio_rustls::rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// What gRPC speaks.
const ALPN: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates of a PEM file.
fn certificates(text: &Text) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&text.bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(text.error("has no certificate in PEM")),
        Err(error) => Err(text.error(format!("is no certificate in PEM: {error}"))),
    }
}

/// The private key of a PEM file.
fn private_key(text: &Text) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&text.bytes)
        .map_err(|error| text.error(format!("has no private key in PEM: {error}")))
}

/// The certificates of a PEM file, as those to be trusted.
fn roots(text: &Text) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text)? {
        roots
            .add(certificate)
            .map_err(|error| text.error(format!("cannot be trusted as a CA: {error}")))?;
    }
    Ok(roots)
}

/// A certificate and its key did not go into a configuration.
fn unfit(certificate: &Text, key: &Text, error: &tokio_rustls::rustls::Error) -> Error {
    let key = key.path.display();
    certificate.error(format!("cannot be used with the key in {key}: {error}"))
}

fn fault(reason: impl Into<String>) -> Error {
    Error::Service {
        what: "TLS",
        reason: reason.into(),
    }
}
