//! How servers are reached that do not let everybody in.

use anyhow::{Result, anyhow};
use clap::{Args, error::ErrorKind};
use dssd_common::serve::{Dialer, DialerSettings, Secret, needs};
use std::path::PathBuf;
use tonic::transport::Uri;

// No doc comment here: clap would show it as the description of a command.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConnectArgs {
    /// CAs, in PEM, that the certificates of https endpoints must be of [default: those that the system trusts]
    #[arg(long, env = "DSSD_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Certificate, in PEM, to show to https endpoints
    #[arg(long, env = "DSSD_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert, in PEM
    #[arg(long, env = "DSSD_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Bearer token for endpoints. Other users of a machine can see command lines: prefer the variable or a file
    #[arg(
        long,
        env = "DSSD_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    token: Option<Secret>,
    /// File whose first token is the bearer token for endpoints
    #[arg(long, env = "DSSD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl ConnectArgs {
    /// What reaches these endpoints.
    ///
    /// # Errors
    /// If a flag is of no use for them, or a file cannot be read or used.
    pub(crate) fn dialer(&self, endpoints: &[Uri]) -> Result<Dialer> {
        let https = |uri: &Uri| uri.scheme_str() == Some("https");
        let encrypted = endpoints.iter().any(https);
        self.check(encrypted).map_err(|error| {
            // Ends the command as any other wrong usage does.
            anyhow!(clap::Error::raw(
                ErrorKind::ArgumentConflict,
                format!("{error}\n")
            ))
        })?;
        let settings = DialerSettings {
            ca: self.tls_ca.clone(),
            identity: self.tls_cert.clone().zip(self.tls_key.clone()),
            token: self.token.clone(),
            token_file: self.token_file.clone(),
        };
        Ok(Dialer::new(settings, encrypted)?)
    }

    fn check(&self, encrypted: bool) -> dssd_common::Result<()> {
        let (certificate, key) = (self.tls_cert.is_some(), self.tls_key.is_some());
        needs("--tls-cert", certificate, "--tls-key", key)?;
        needs("--tls-key", key, "--tls-cert", certificate)?;
        let https = "--endpoint https://…";
        needs("--tls-cert", certificate, https, encrypted)?;
        needs("--tls-ca", self.tls_ca.is_some(), https, encrypted)
    }
}
