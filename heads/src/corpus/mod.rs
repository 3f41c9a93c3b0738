//! Text as a stream: documents of several files, cut into windows of tokens.
//!
//! Nothing is ever held whole: memory is one piece of each file and the shuffle buffer.

mod document;
mod held_out;
mod source;
mod windows;

pub use document::{Document, Encoder};
pub use held_out::held_out;
pub use windows::{WindowState, Windows};

use crate::{Error, Result};
use dssd_common::checkpoint::hex;
use sha2::{Digest, Sha256};
use source::Source;
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// One document in so many is kept for measuring and calibrating, where no text of its own is
/// given for that.
pub const HELD_OUT_SHARE: u64 = 50;

/// Documents of several files, mixed in proportion to the files' sizes.
pub struct Corpus {
    sources: Vec<Source>,
}

impl Corpus {
    /// Opens text files: JSON lines if the name ends in `.jsonl` or `.ndjson`, else plain text
    /// whose documents are parted by `<|endoftext|>`.
    ///
    /// # Errors
    /// If there is no file, or one cannot be opened.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::setting("text", "names no file"));
        }
        let sources = paths.iter().map(|path| Source::open(path));
        Ok(Self {
            sources: sources.collect::<Result<_>>()?,
        })
    }

    /// The next document, of the file that was read least so far; none at the end of all.
    ///
    /// # Errors
    /// If a file cannot be read or is not what its name says; the error names the place.
    pub fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            let least = self
                .sources
                .iter_mut()
                .filter(|source| !source.is_finished())
                .min_by(|a, b| a.share_read().total_cmp(&b.share_read()));
            let Some(source) = least else {
                return Ok(None);
            };
            if let Some(document) = source.next_document()? {
                return Ok(Some(document));
            }
        }
    }

    /// Bytes read of each file, for [`Corpus::seek`].
    pub fn offsets(&self) -> Vec<u64> {
        self.sources.iter().map(Source::offset).collect()
    }

    /// Goes on where [`Corpus::offsets`] were taken.
    ///
    /// # Errors
    /// If a file cannot be read there.
    pub fn seek(&mut self, offsets: &[u64]) -> Result<()> {
        for (source, &offset) in self.sources.iter_mut().zip(offsets) {
            source.seek(offset)?;
        }
        Ok(())
    }

    /// Back to the first document.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn rewind(&mut self) -> Result<()> {
        let start = vec![0; self.sources.len()];
        self.seek(&start)
    }
}

/// SHA-256 over the contents of files, in order, lower-case hexadecimal.
///
/// # Errors
/// If one cannot be read.
pub fn text_hash(paths: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in paths {
        hash_file(path, &mut hash)?;
    }
    Ok(hex(&hash.finalize()))
}

fn hash_file(path: &Path, hash: &mut Sha256) -> Result<()> {
    let mut file = File::open(path).map_err(|error| Error::io(path, error))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) => return Err(Error::io(path, error)),
        }
    }
}

#[cfg(test)]
mod tests;
