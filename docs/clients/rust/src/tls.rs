//! Encryption. In a workspace of your own tonic's feature `tls-ring` does this, by `Endpoint::tls_config`.

use anyhow::Result;
use hyper_util::rt::TokioIo;
use std::{io, path::Path, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};
use tonic::transport::{Channel, Endpoint, Uri};

/// Connects with the first call; the server's certificate must be of a CA in this file.
pub(crate) fn channel(endpoint: &Endpoint, ca: &Path) -> Result<Channel> {
    let connector = TlsConnector::from(Arc::new(configuration(ca)?));
    Ok(endpoint
        .connect_with_connector_lazy(tower::service_fn(move |to| connect(to, connector.clone()))))
}

fn configuration(ca: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(ring::default_provider());
    let mut configuration = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    configuration.alpn_protocols = vec![b"h2".to_vec()];
    Ok(configuration)
}

async fn connect(to: Uri, connector: TlsConnector) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let host = to.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, to.port_u16().unwrap_or(443))).await?;
    connector.connect(name, stream).await.map(TokioIo::new)
}
