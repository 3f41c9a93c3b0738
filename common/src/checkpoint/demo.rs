//! The demo model: where it is in a checkout, beside an installed binary, or inside this one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

macro_rules! embedded {
    ($($name:literal),+) => {
        /// Names and contents of the model's files.
        const FILES: &[(&str, &[u8])] =
            &[$(($name, include_bytes!(concat!("../../../models/demo/", $name)))),+];
    };
}

embedded!(
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "model.safetensors",
    "exit_heads.json",
    "exit_heads.safetensors",
    "calibration.json"
);

/// A folder with the demo model: `models/demo` of the checkout that this was built from,
/// `../share/dssd/models/demo` beside the running executable, or else a folder in the user's
/// cache, filled from the copy that this binary carries.
///
/// # Errors
/// If there is no such folder and the cache cannot be written.
pub fn folder() -> Result<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
    if is_complete(&checkout) {
        return Ok(checkout);
    }
    let installed = std::env::current_exe().ok().and_then(|executable| {
        let root = executable.parent()?.parent()?;
        Some(root.join("share/dssd/models/demo"))
    });
    if let Some(installed) = installed.filter(|folder| is_complete(folder)) {
        return Ok(installed);
    }
    let folder = cache().join(concat!("dssd/models/demo-", env!("CARGO_PKG_VERSION")));
    unpack(&folder)?;
    Ok(folder)
}

/// Writes the files that `folder` lacks. Each appears whole or not at all, so that several
/// processes may do this at once.
fn unpack(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
    for (name, content) in FILES {
        let path = folder.join(name);
        if has_size(&path, content.len()) {
            continue;
        }
        let part = folder.join(format!("{name}.{}", std::process::id()));
        fs::write(&part, content).map_err(|source| io(&part, source))?;
        fs::rename(&part, &path).map_err(|source| io(&path, source))?;
    }
    Ok(())
}

fn is_complete(folder: &Path) -> bool {
    FILES
        .iter()
        .all(|(name, content)| has_size(&folder.join(name), content.len()))
}

fn has_size(path: &Path, size: usize) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == size as u64)
}

fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::{folder, unpack};
    use crate::checkpoint::Checkpoint;

    #[test]
    fn the_embedded_copy_is_the_model_of_the_checkout() {
        let directory = tempfile::tempdir().unwrap();
        unpack(directory.path()).unwrap();
        let fingerprint = |path| Checkpoint::open(path).unwrap().fingerprint().unwrap();
        assert_eq!(
            fingerprint(directory.path()),
            fingerprint(&folder().unwrap())
        );
    }

    #[test]
    fn a_damaged_copy_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.json");
        std::fs::write(&config, "{").unwrap();
        unpack(directory.path()).unwrap();
        Checkpoint::open(directory.path()).unwrap();
    }
}
