//! A JSON object that is read field by field, and refuses what nobody asked for.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::json_file;
use crate::error::{Error, Result};

/// The fields of a JSON object that have not been taken yet. `null` counts as absent.
pub(super) struct Fields {
    path: PathBuf,
    prefix: String,
    values: Map<String, Value>,
}

impl Fields {
    /// Reads the object in the file `path`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let values = json_file::read(path)?;
        Ok(Self {
            path: path.into(),
            prefix: String::new(),
            values,
        })
    }

    /// Takes the field out.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| self.refuse(name, error.to_string())),
        }
    }

    /// Whether the field is there and not taken yet, be it null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Takes a field out that must be there.
    pub(super) fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        self.take(name)?
            .ok_or_else(|| self.refuse(name, "is missing"))
    }

    /// Takes a field out that may only have one value, or be absent.
    pub(super) fn only<T>(&mut self, name: &str, allowed: T) -> Result<()>
    where
        T: DeserializeOwned + PartialEq + std::fmt::Display,
    {
        match self.take::<T>(name)? {
            Some(value) if value != allowed => {
                Err(self.refuse(name, format!("{value} is not supported, only {allowed}")))
            }
            _ => Ok(()),
        }
    }

    /// Takes an object inside this one out.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Self>> {
        let values = self.take(name)?;
        Ok(values.map(|values| Self {
            path: self.path.clone(),
            prefix: format!("{}{name}.", self.prefix),
            values,
        }))
    }

    /// An error about a field of this object.
    pub(super) fn refuse(&self, name: &str, reason: impl Into<String>) -> Error {
        Error::UnsupportedField {
            path: self.path.clone(),
            field: format!("{}{name}", self.prefix),
            reason: reason.into(),
        }
    }

    /// Ends the reading: whatever is left must be null or named in `harmless`.
    pub(super) fn finish(self, harmless: &[&str]) -> Result<()> {
        let unknown = self
            .values
            .iter()
            .find(|(name, value)| !value.is_null() && !harmless.contains(&name.as_str()));
        match unknown {
            None => Ok(()),
            Some((name, _)) => Err(self.refuse(
                name,
                "not supported: it is not among the fields known to leave the arithmetic unchanged; remove it if it does",
            )),
        }
    }
}
