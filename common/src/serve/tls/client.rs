//! The side that calls.

use super::{ALPN, certificates, fault, private_key, provider, roots, unfit};
use crate::{
    Result,
    serve::{
        Secret,
        tokens::Bearer,
        watched::{Text, Watched},
    },
};
use hyper_util::rt::TokioIo;
use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, client::Resumption, pki_types::ServerName},
};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Uri},
};

/// Time for a connection to come about, encryption included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that vanished without a word is noticed within these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A way to a server: calls carry the token, if there is one.
pub type Wire = InterceptedService<Channel, Bearer>;

/// What proves a client to servers, and servers to it.
#[derive(Clone, Debug, Default)]
pub struct DialerSettings {
    /// The CA that servers' certificates must be of; those that the system trusts if unset.
    pub ca: Option<PathBuf>,
    /// The client's certificate, with its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The bearer token.
    pub token: Option<Secret>,
    /// A file whose first token is the bearer token.
    pub token_file: Option<PathBuf>,
}

/// Opens ways to servers. Clones share what they follow.
#[derive(Clone, Default)]
pub struct Dialer {
    /// For `https`.
    tls: Option<Arc<Watched<ClientConfig>>>,
    bearer: Bearer,
}

impl Dialer {
    /// Reads the files, and follows them on the runtime that this is called on. Only a dialer
    /// that is made `with_tls` can reach `https` addresses.
    ///
    /// # Errors
    /// If a file cannot be read or used, or the system has no certificates where they are needed.
    pub fn new(settings: DialerSettings, with_tls: bool) -> Result<Self> {
        let bearer = match (settings.token_file, &settings.token) {
            (Some(file), _) => Bearer::from_file(file)?,
            (None, Some(token)) => Bearer::fixed(token)?,
            (None, None) => Bearer::default(),
        };
        let tls = match with_tls {
            true => Some(Arc::new(client_tls(settings.ca, settings.identity)?)),
            false => None,
        };
        Ok(Self { tls, bearer })
    }

    /// A way to the server that a URI names; it is connected at the first call, and again when it
    /// is lost.
    pub fn wire(&self, uri: &Uri) -> Wire {
        self.to(Endpoint::from(uri.clone()), uri)
    }

    /// A way to one address of the server that a URI names. Its certificate must be of that name.
    ///
    /// # Errors
    /// If there can be no such address.
    pub fn wire_at(
        &self,
        address: SocketAddr,
        uri: &Uri,
    ) -> std::result::Result<Wire, tonic::transport::Error> {
        let scheme = uri.scheme_str().unwrap_or("http");
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?;
        Ok(self.to(endpoint.origin(uri.clone()), uri))
    }

    /// A channel to the server that a URI names, without the token, whose calls may take so long.
    pub(in crate::serve) fn channel(&self, uri: &Uri, limit: Duration) -> Channel {
        self.connected(Endpoint::from(uri.clone()).timeout(limit), uri)
    }

    fn to(&self, endpoint: Endpoint, name: &Uri) -> Wire {
        InterceptedService::new(self.connected(endpoint, name), self.bearer.clone())
    }

    fn connected(&self, endpoint: Endpoint, name: &Uri) -> Channel {
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        match name.scheme_str() {
            Some("https") => {
                let name = host(name).to_owned();
                let tls = self.tls.clone();
                endpoint.connect_with_connector_lazy(tower::service_fn(move |to: Uri| {
                    connect(to, name.clone(), tls.clone())
                }))
            }
            _ => endpoint.connect_lazy(),
        }
    }
}

/// The host of a URI, IPv6 addresses without their brackets.
fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

async fn connect(
    to: Uri,
    name: String,
    tls: Option<Arc<Watched<ClientConfig>>>,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let tls = tls.ok_or_else(|| io::Error::other("no certificates are there for https"))?;
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host(&to), to.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(tls.current());
    connector.connect(name, stream).await.map(TokioIo::new)
}

fn client_tls(
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
) -> Result<Watched<ClientConfig>> {
    let system = match ca {
        Some(_) => None,
        None => Some(system_roots()?),
    };
    let identity = identity.map(|(certificate, key)| [certificate, key]);
    let paths = ca.into_iter().chain(identity.into_iter().flatten());
    Watched::start(paths.collect(), move |texts| match (&system, texts) {
        (Some(system), identity) => configure(system.clone(), identity),
        (None, [ca, identity @ ..]) => configure(roots(ca)?, identity),
        (None, []) => Err(fault("a CA is needed")),
    })
}

fn configure(roots: RootCertStore, identity: &[Text]) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| fault(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match identity {
        [certificate, key, ..] => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| unfit(certificate, key, &error))?,
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn system_roots() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(fault(format!(
            "the system has no certificates to trust: name a CA instead ({})",
            errors.join("; ")
        )));
    }
    Ok(roots)
}
