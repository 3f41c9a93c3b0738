//! Certificates and tokens, made for a test.

use dssd_common::serve::{Dialer, DialerSettings};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "5c1b8f4f2d6e4a7f9a3b0c1d2e3f4a5b";
pub(crate) const OTHER_TOKEN: &str = "00112233445566778899aabbccddeeff";

/// A certificate authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate with its key, both in PEM.
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate of a host.
    pub(crate) fn leaf(&self, host: &str) -> Leaf {
        self.leaf_until(host, 2999)
    }

    /// The same, out of date.
    pub(crate) fn expired(&self, host: &str) -> Leaf {
        self.leaf_until(host, 2001)
    }

    fn leaf_until(&self, host: &str, year: i32) -> Leaf {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Leaf {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A folder of files.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, and gives its path. An older one is replaced at once.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let (draft, path) = (self.0.path().join("draft"), self.0.path().join(name));
        std::fs::write(&draft, content).unwrap();
        std::fs::rename(draft, &path).unwrap();
        path
    }

    /// Writes a certificate and its key.
    pub(crate) fn identity(&self, name: &str, leaf: &Leaf) -> (PathBuf, PathBuf) {
        (
            self.write(&format!("{name}.pem"), &leaf.certificate),
            self.write(&format!("{name}.key"), &leaf.key),
        )
    }
}

/// A client with a CA to trust, a certificate to show and a token to send.
pub(crate) fn dialer(
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    token: Option<&str>,
) -> Dialer {
    let encrypted = ca.is_some();
    let settings = DialerSettings {
        ca,
        identity,
        token: token.map(|token| token.to_owned().into()),
        token_file: None,
    };
    Dialer::new(settings, encrypted).unwrap()
}
