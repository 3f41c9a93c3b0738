//! Who may enter: the flags, and what becomes of them.

use super::{
    check_positive,
    gate::{Gate, Rules},
    parse_seconds,
    seats::Seats,
    tls::{ServerTls, server_tls},
    tokens::Keyring,
};
use crate::{Error, Result};
use clap::Args;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tonic::server::NamedService;

// No doc comment here: clap would show it as the description of a service.
#[expect(
    missing_docs,
    reason = "see the comment above; every field is described"
)]
#[derive(Args, Clone, Debug)]
pub struct DoorArgs {
    /// Certificate of this server, in PEM, with those between it and its CA: calls are encrypted. Followed as it changes
    #[arg(long, env = "DSSD_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert, in PEM
    #[arg(long, env = "DSSD_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// CAs, in PEM, of one of which clients must show a certificate
    #[arg(long, env = "DSSD_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Bearer tokens that calls must have one of (but for those of health), one a line, of at least 32 characters; lines that begin with # do not count. Followed as it changes
    #[arg(long, env = "DSSD_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Calls that work for a client, open at once with the same token
    #[arg(long, env = "DSSD_MAX_STREAMS_PER_TOKEN", value_name = "N")]
    pub max_streams_per_token: Option<usize>,
    /// Age at which a connection takes no new call, so that clients connect anew and find other replicas, too; 0 for none
    #[arg(long, env = "DSSD_MAX_CONNECTION_AGE", value_name = "SECONDS", value_parser = parse_seconds)]
    pub max_connection_age: Duration,
    /// Time that calls have to end after that; those that are left are ended with UNAVAILABLE
    #[arg(long, env = "DSSD_MAX_CONNECTION_AGE_GRACE", value_name = "SECONDS", value_parser = parse_seconds, default_value = "600")]
    pub max_connection_age_grace: Duration,
}

/// What stands between the network and a service.
#[derive(Default)]
pub struct Door {
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) gate: Gate,
    /// After so long a connection takes no new call.
    pub(super) age: Option<Duration>,
    /// After so long its calls are ended.
    pub(super) last_age: Option<Duration>,
}

impl Door {
    /// What callers pass, for ports beside that of gRPC.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }
}

impl DoorArgs {
    /// Refuses flags that are of no use without others.
    ///
    /// # Errors
    /// If there is such a flag.
    pub(super) fn check(&self) -> Result<()> {
        let tls = self.tls_cert.is_some();
        needs("--tls-cert", tls, "--tls-key", self.tls_key.is_some())?;
        needs("--tls-key", self.tls_key.is_some(), "--tls-cert", tls)?;
        let client_ca = self.tls_client_ca.is_some();
        needs("--tls-client-ca", client_ca, "--tls-cert", tls)?;
        let (limit, tokens) = (self.max_streams_per_token, self.token_file.is_some());
        check_positive("--max-streams-per-token", limit.unwrap_or(1))?;
        let limit = limit.is_some();
        needs("--max-streams-per-token", limit, "--token-file", tokens)
    }

    /// Whether there is neither encryption nor a token.
    pub fn is_open(&self) -> bool {
        self.tls_cert.is_none() && self.token_file.is_none()
    }

    /// The door of service `S`, where `counted` are the methods that work for a client. Files are
    /// read, and followed on the runtime that this is called on.
    ///
    /// # Errors
    /// If a file cannot be read or used, or a flag is of no use without another.
    pub fn build<S: NamedService>(&self, counted: &[&str]) -> Result<Door> {
        self.check()?;
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                let client_ca = self.tls_client_ca.clone();
                let tls = server_tls(certificate.clone(), key.clone(), client_ca)?;
                Some(Arc::new(tls))
            }
            _ => None,
        };
        let path = |method: &&str| format!("/{}/{method}", S::NAME);
        let most = self.max_streams_per_token;
        let rules = Rules {
            keyring: self.token_file.clone().map(Keyring::open).transpose()?,
            seats: most.map(|most| Arc::new(Seats::new(most))),
            counted: counted.iter().map(path).collect(),
        };
        let age = self.max_connection_age;
        let age = (!age.is_zero()).then_some(age);
        Ok(Door {
            tls,
            gate: Gate::new(rules),
            age,
            last_age: age.map(|age| age.saturating_add(self.max_connection_age_grace)),
        })
    }
}

/// Refuses `flag`, if it is given, where `other` is not.
///
/// # Errors
/// In that case.
pub fn needs(flag: &'static str, given: bool, other: &str, other_given: bool) -> Result<()> {
    if !given || other_given {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        field: flag,
        reason: format!("is of no use without {other}: give both or none"),
    })
}
