//! JSON files that this crate reads and writes whole.

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::hex;
use crate::error::{Error, Result};

/// How the second line of a sealed file begins, which holds the SHA-256 of all the others.
const SEAL: &str = "  \"sha256\": \"";

/// Reads a value; errors name the file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse(path, &read_text(path)?)
}

/// Reads a value that [`write_sealed`] wrote, and refuses it if one byte is another.
pub(crate) fn read_sealed<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = String::from_utf8_lossy(&read_text(path)?).into_owned();
    let invalid = |reason| Error::InvalidFile {
        path: path.into(),
        reason,
    };
    let unsealed = || text.split_once(SEAL)?.1.split_once("\",\n");
    let Some((told, rest)) = unsealed() else {
        let reason = "has no line with its SHA-256, so it is damaged, or was not written by this program: make it anew";
        return Err(invalid(reason.to_owned()));
    };
    let content = format!("{{\n{rest}");
    let digest = hex(&Sha256::digest(&content));
    if told != digest || !text.starts_with(&format!("{{\n{SEAL}")) {
        return Err(invalid(format!(
            "was damaged or changed by hand: the SHA-256 of its other lines is {digest}, and it says {told}"
        )));
    }
    parse(path, content.as_bytes())
}

fn read_text(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io {
        path: path.into(),
        source,
    })
}

fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| Error::InvalidFile {
        path: path.into(),
        reason: error.to_string(),
    })
}

/// Reads a value where the file exists.
pub(crate) fn read_optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if path.exists() {
        read(path).map(Some)
    } else {
        Ok(None)
    }
}

/// Writes a value, indented for people. The file is whole, old or new, whenever this is cut off.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from);
    write_text(path, text)
}

/// The same, with a line that holds the SHA-256 of all the others.
pub(crate) fn write_sealed(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from);
    let sealed = text.map(|text| {
        let digest = hex(&Sha256::digest(&text));
        text.replacen("{\n", &format!("{{\n{SEAL}{digest}\",\n"), 1)
    });
    write_text(path, sealed)
}

fn write_text(path: &Path, text: std::io::Result<String>) -> Result<()> {
    let new = path.with_extension("json.new");
    text.and_then(|text| std::fs::write(&new, text))
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|source| Error::Io {
            path: path.into(),
            source,
        })
}
