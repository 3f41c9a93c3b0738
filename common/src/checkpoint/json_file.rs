//! JSON files that this crate reads and writes whole.

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// Reads a value; errors name the file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(|source| Error::Io {
        path: path.into(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|error| Error::InvalidFile {
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
    let written = serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
    let new = path.with_extension("json.new");
    written
        .and_then(|text| std::fs::write(&new, text))
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|source| Error::Io {
            path: path.into(),
            source,
        })
}
