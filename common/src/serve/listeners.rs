//! The addresses that a service listens on.

use super::{HttpListen, ServeArgs, listen};
use crate::{Error, Result};
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Where a service is reached.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For probes and metrics, if they are wanted.
    pub http: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    /// gRPC alone.
    fn from(grpc: TcpListener) -> Self {
        Self { grpc, http: None }
    }
}

impl Listeners {
    /// Listens where the flags say.
    ///
    /// # Errors
    /// If an address cannot be had, or both are the same.
    pub async fn bind(args: &ServeArgs) -> Result<Self> {
        let http = match args.http_listen {
            HttpListen::Off => None,
            HttpListen::At(address) if address == args.listen && address.port() != 0 => {
                return Err(Error::InvalidParameter {
                    field: "--http-listen",
                    reason: format!(
                        "{address} is the address of --listen: give another one, or off"
                    ),
                });
            }
            HttpListen::At(address) => Some(listen_http(address).await?),
        };
        let grpc = listen(args.listen, args.door.is_open()).await?;
        Ok(Self { grpc, http })
    }
}

async fn listen_http(address: SocketAddr) -> Result<TcpListener> {
    let fault = |error: std::io::Error| Error::Service {
        what: "--http-listen",
        reason: format!("{address}: {error}; give another address, or off"),
    };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    let bound = listener.local_addr().map_err(fault)?;
    tracing::info!(address = %bound, "probes and metrics");
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_the_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = listen_http(address).await.unwrap_err().to_string();
        assert!(
            error.contains("--http-listen") && error.contains("in use"),
            "{error}"
        );
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
