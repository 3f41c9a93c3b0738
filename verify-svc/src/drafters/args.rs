//! The flags that say how drafters are reached.

use crate::{Error, Result};
use clap::Args;
use dssd_common::serve::{Dialer, DialerSettings, needs};
use std::path::PathBuf;
use tonic::transport::Uri;

// No doc comment here: clap would show it as the description of the service.
#[expect(
    missing_docs,
    reason = "see the comment above; every field is described"
)]
#[derive(Args, Clone, Debug)]
pub struct DialArgs {
    /// CAs, in PEM, that certificates of https drafters must be of [default: those that the system trusts]. Followed as it changes
    #[arg(long, env = "DSSD_DRAFT_TLS_CA", value_name = "FILE")]
    pub draft_tls_ca: Option<PathBuf>,
    /// Certificate, in PEM, to show to https drafters. Followed as it changes
    #[arg(long, env = "DSSD_DRAFT_TLS_CERT", value_name = "FILE")]
    pub draft_tls_cert: Option<PathBuf>,
    /// Private key of --draft-tls-cert, in PEM
    #[arg(long, env = "DSSD_DRAFT_TLS_KEY", value_name = "FILE")]
    pub draft_tls_key: Option<PathBuf>,
    /// File whose first token is sent to drafters, in the form of --token-file. Followed as it changes
    #[arg(long, env = "DSSD_DRAFT_TOKEN_FILE", value_name = "FILE")]
    pub draft_token_file: Option<PathBuf>,
}

impl DialArgs {
    /// Refuses addresses of other kinds, and flags that are of no use for these drafters.
    pub(crate) fn check(&self, drafts: &[Uri]) -> Result<()> {
        let fit = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
        let unfit = |uri: &&Uri| !fit(uri) || uri.host().is_none_or(str::is_empty);
        if let Some(uri) = drafts.iter().find(unfit) {
            let reason = format!("--draft {uri}: must be http://HOST:PORT or https://HOST:PORT");
            return Err(Error::Config(reason));
        }
        let encrypted = is_encrypted(drafts);
        let (certificate, key) = (self.draft_tls_cert.is_some(), self.draft_tls_key.is_some());
        needs("--draft-tls-cert", certificate, "--draft-tls-key", key)?;
        needs("--draft-tls-key", key, "--draft-tls-cert", certificate)?;
        let https = "--draft https://…";
        needs("--draft-tls-cert", certificate, https, encrypted)?;
        let ca = self.draft_tls_ca.is_some();
        needs("--draft-tls-ca", ca, https, encrypted)?;
        let token = self.draft_token_file.is_some();
        Ok(needs(
            "--draft-token-file",
            token,
            "--draft",
            !drafts.is_empty(),
        )?)
    }

    /// What dials these drafters, with the files read and followed.
    pub(crate) fn dialer(&self, drafts: &[Uri]) -> Result<Dialer> {
        self.check(drafts)?;
        let settings = DialerSettings {
            ca: self.draft_tls_ca.clone(),
            identity: self.draft_tls_cert.clone().zip(self.draft_tls_key.clone()),
            token: None,
            token_file: self.draft_token_file.clone(),
        };
        Ok(Dialer::new(settings, is_encrypted(drafts))?)
    }
}

fn is_encrypted(drafts: &[Uri]) -> bool {
    let https = |uri: &Uri| uri.scheme_str() == Some("https");
    drafts.iter().any(https)
}
