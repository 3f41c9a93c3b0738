//! Values that are made from files, and made anew when the files change.

use crate::{Error, Result, checkpoint::hex};
use arc_swap::ArcSwap;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most bytes of one file: certificates and tokens have a few thousand.
const MAX_BYTES: u64 = 1 << 20;

/// A value made from files. While it lives, it follows them: a change takes a second or two to
/// show, and files that cannot be used leave the value as it was.
pub(super) struct Watched<T> {
    current: Arc<ArcSwap<T>>,
    _following: Option<AbortOnDropHandle<()>>,
}

/// One file as it was read.
pub(super) struct Text {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

impl Text {
    /// What is wrong with it.
    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::InvalidFile {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Makes a value from `paths`, in their order, and follows them on the runtime that this is
    /// called on.
    ///
    /// # Errors
    /// If a file cannot be read, or `make` finds no value in them.
    pub(super) fn start(
        paths: Vec<PathBuf>,
        make: impl Fn(&[Text]) -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        let no_files = paths.is_empty();
        let (source, first) = Source::open(paths, make)?;
        let current = Arc::new(ArcSwap::from_pointee(first));
        let following = (!no_files).then(|| tokio::spawn(follow(source, Arc::clone(&current))));
        Ok(Self {
            current,
            _following: following.map(AbortOnDropHandle::new),
        })
    }

    /// The value by the newest files that could be used.
    pub(super) fn current(&self) -> Arc<T> {
        self.current.load_full()
    }
}

async fn follow<T, F>(mut source: Source<F>, current: Arc<ArcSwap<T>>)
where
    T: Send + Sync + 'static,
    F: Fn(&[Text]) -> Result<T> + Send + 'static,
{
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looked = spawn_blocking(move || (source.refresh(), source)).await;
        // It fails only if `make` panics, or the runtime ends.
        let Ok((refreshed, same)) = looked else {
            tracing::error!("files are not followed any more");
            return;
        };
        source = same;
        match refreshed {
            None => {}
            Some(Ok(value)) => {
                current.store(Arc::new(value));
                tracing::info!(files = ?source.paths, "taken anew");
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "changed files cannot be used, what they said before still holds");
            }
        }
    }
}

/// Files, what to make of them, and what was seen last.
struct Source<F> {
    paths: Vec<PathBuf>,
    make: F,
    /// A hash of the contents, or why they could not be read.
    seen: String,
}

impl<F> Source<F> {
    fn open<T>(paths: Vec<PathBuf>, make: F) -> Result<(Self, T)>
    where
        F: Fn(&[Text]) -> Result<T>,
    {
        let texts = read_all(&paths)?;
        let value = make(&texts)?;
        let seen = fingerprint(&texts);
        Ok((Self { paths, make, seen }, value))
    }

    /// The value, if there is something to be seen that was not seen the last time. Contents are
    /// compared, and no times: links are swapped, and clocks are coarse.
    fn refresh<T>(&mut self) -> Option<Result<T>>
    where
        F: Fn(&[Text]) -> Result<T>,
    {
        let texts = read_all(&self.paths);
        let seen = match &texts {
            Ok(texts) => fingerprint(texts),
            Err(error) => error.to_string(),
        };
        if self.seen == seen {
            return None;
        }
        self.seen = seen;
        Some(texts.and_then(|texts| (self.make)(&texts)))
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Text>> {
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Text> {
    let fault = |source: io::Error| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    // Opening a pipe would wait for whoever writes into it.
    if !fs::metadata(path).map_err(fault)?.is_file() {
        return Err(Error::InvalidFile {
            path: path.to_owned(),
            reason: "is no regular file".to_owned(),
        });
    }
    let file = File::open(path).map_err(fault)?;
    let count = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    let text = Text {
        path: path.to_owned(),
        bytes,
    };
    match count.map_err(fault)? as u64 {
        0..=MAX_BYTES => Ok(text),
        _ => Err(text.error(format!("has more than {MAX_BYTES} bytes"))),
    }
}

fn fingerprint(texts: &[Text]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.bytes.len() as u64).to_le_bytes());
        hash.update(&text.bytes);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_are_used_once_for_each_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        fs::write(&path, "1").unwrap();
        let number = |texts: &[Text]| {
            let text = std::str::from_utf8(&texts[0].bytes).unwrap();
            text.parse::<u32>()
                .map_err(|error| texts[0].error(error.to_string()))
        };
        let (mut source, first) = Source::open(vec![path.clone()], number).unwrap();
        assert_eq!(first, 1);
        assert!(source.refresh().is_none());
        fs::write(&path, "many").unwrap();
        assert!(source.refresh().unwrap().is_err());
        assert!(source.refresh().is_none(), "one warning for one change");
        fs::remove_file(&path).unwrap();
        assert!(source.refresh().unwrap().is_err());
        assert!(source.refresh().is_none());
        // As Kubernetes does it: a link is replaced by another one.
        let other = dir.path().join("other");
        fs::write(&other, "2").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(source.refresh().unwrap().unwrap(), 2);
        let too_long = "1".repeat(MAX_BYTES as usize + 1);
        fs::write(&path, too_long).unwrap();
        let error = source.refresh().unwrap().unwrap_err().to_string();
        assert!(
            error.contains("number") && error.contains("bytes"),
            "{error}"
        );
    }
}
