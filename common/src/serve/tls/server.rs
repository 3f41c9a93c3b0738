//! The side that is called.

use super::{ALPN, certificates, fault, private_key, provider, roots, unfit};
use crate::{
    Result,
    serve::watched::{Text, Watched},
};
use std::{path::PathBuf, sync::Arc};
use tokio_rustls::rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

/// The configuration of new connections.
pub(crate) type ServerTls = Watched<ServerConfig>;

/// Reads a certificate, its key, and the CA that clients' certificates must be of, if they need
/// one; and follows the files.
///
/// # Errors
/// If a file cannot be read or used.
pub(crate) fn server_tls(
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
) -> Result<ServerTls> {
    let paths = [certificate, key].into_iter().chain(client_ca).collect();
    Watched::start(paths, configure)
}

fn configure(texts: &[Text]) -> Result<ServerConfig> {
    let [certificate, key, client_ca @ ..] = texts else {
        return Err(fault("a certificate and a key are needed"));
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| certificate.error(error.to_string()))?;
    let builder = match client_ca.first() {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider())
                    .build()
                    .map_err(|error| ca.error(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates(certificate)?, private_key(key)?)
        .map_err(|error| unfit(certificate, key, &error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Connections live long, and each is to show a certificate that holds now.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
