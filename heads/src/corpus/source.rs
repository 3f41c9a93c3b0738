//! One file of documents, read piece by piece.

use super::Document;
use crate::{Error, Result};
use serde::Deserialize;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// What parts documents in plain text.
const SEPARATOR: &[u8] = b"<|endoftext|>";
/// Longer documents of plain text are taken in pieces of about this size.
const PIECE_BYTES: usize = 128 << 10;
/// A JSON line has to fit in memory.
const LINE_BYTES: usize = 64 << 20;
const READ_BYTES: usize = 64 << 10;

/// A file, and how far it was read.
pub(super) struct Source {
    path: PathBuf,
    form: Form,
    file: File,
    size: u64,
    /// Where `buffer[start]` is in the file.
    offset: u64,
    buffer: Vec<u8>,
    start: usize,
    /// Everything is in the buffer or behind.
    at_end: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    JsonLines,
}

/// One line of a JSON-lines file; other keys are somebody else's.
#[derive(Deserialize)]
struct Record {
    text: Option<String>,
    token_ids: Option<Vec<u32>>,
}

/// Where a document ends in the unread bytes, and where the next one begins.
struct Cut {
    end: usize,
    next: usize,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |error| Error::io(path, error);
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let form = match extension {
            Some("jsonl" | "ndjson") => Form::JsonLines,
            _ => Form::Text,
        };
        Ok(Self {
            path: path.into(),
            form,
            file,
            size,
            offset: 0,
            buffer: Vec::new(),
            start: 0,
            at_end: false,
        })
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn share_read(&self) -> f64 {
        self.offset as f64 / self.size.max(1) as f64
    }

    pub(super) fn is_finished(&self) -> bool {
        self.at_end && self.unread().is_empty()
    }

    pub(super) fn seek(&mut self, offset: u64) -> Result<()> {
        self.file
            .seek(SeekFrom::Start(offset))
            .map_err(|error| Error::io(&self.path, error))?;
        self.offset = offset;
        self.buffer.clear();
        self.start = 0;
        self.at_end = false;
        Ok(())
    }

    /// The next document; none where what was read is blank, or at the end.
    pub(super) fn next_document(&mut self) -> Result<Option<Document>> {
        let Some(cut) = self.cut()? else {
            return Ok(None);
        };
        let place = self.offset;
        let bytes = self.unread()[..cut.end].to_vec();
        self.start += cut.next;
        self.offset += cut.next as u64;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = place + error.utf8_error().valid_up_to() as u64;
            Error::invalid_file(&self.path, format!("no UTF-8 at byte {at}"))
        })?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        match self.form {
            Form::Text => Ok(Some(Document::Text(text))),
            Form::JsonLines => self.parse(&text, place).map(Some),
        }
    }

    fn parse(&self, line: &str, place: u64) -> Result<Document> {
        let invalid = |reason: String| {
            Error::invalid_file(&self.path, format!("line at byte {place}: {reason}"))
        };
        let record: Record =
            serde_json::from_str(line).map_err(|error| invalid(error.to_string()))?;
        match record {
            Record {
                token_ids: Some(ids),
                ..
            } => Ok(Document::Tokens(ids)),
            Record {
                text: Some(text), ..
            } => Ok(Document::Text(text)),
            Record { .. } => Err(invalid("has neither `text` nor `token_ids`".into())),
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads on until a whole document is in the buffer; none at the end of the file.
    fn cut(&mut self) -> Result<Option<Cut>> {
        let mut searched = 0;
        loop {
            if let Some(cut) = self.find(searched) {
                return Ok(Some(cut));
            }
            if self.at_end {
                let end = self.unread().len();
                return Ok((end > 0).then_some(Cut { end, next: end }));
            }
            // A separator may lie across the border of two reads.
            searched = self.unread().len().saturating_sub(SEPARATOR.len());
            self.read_more()?;
        }
    }

    /// The end of the first document, if it is in the buffer; nothing ends before `from`.
    fn find(&self, from: usize) -> Option<Cut> {
        let unread = self.unread();
        if self.form == Form::JsonLines {
            let end = from + unread[from..].iter().position(|&byte| byte == b'\n')?;
            return Some(Cut { end, next: end + 1 });
        }
        let piece = &unread[from..unread.len().min(PIECE_BYTES)];
        if let Some(at) = piece
            .windows(SEPARATOR.len())
            .position(|window| window == SEPARATOR)
        {
            let end = from + at;
            return Some(Cut {
                end,
                next: end + SEPARATOR.len(),
            });
        }
        (unread.len() >= PIECE_BYTES).then(|| {
            let end = end_of_piece(&unread[..PIECE_BYTES]);
            Cut { end, next: end }
        })
    }

    fn read_more(&mut self) -> Result<()> {
        if self.form == Form::JsonLines && self.unread().len() > LINE_BYTES {
            let reason = format!(
                "line at byte {} is longer than {LINE_BYTES} bytes",
                self.offset
            );
            return Err(Error::invalid_file(&self.path, reason));
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let held = self.buffer.len();
        self.buffer.resize(held + READ_BYTES, 0);
        let count = self
            .file
            .read(&mut self.buffer[held..])
            .map_err(|error| Error::io(&self.path, error))?;
        self.buffer.truncate(held + count);
        self.at_end = count == 0;
        Ok(())
    }
}

/// Where to part a long document: after its last line, else its last word, else its last
/// character, and never inside the beginning of a separator.
fn end_of_piece(piece: &[u8]) -> usize {
    let safe = &piece[..piece.len() - SEPARATOR.len()];
    let last = |wanted: fn(&u8) -> bool| safe.iter().rposition(wanted).map(|at| at + 1);
    last(|&byte| byte == b'\n')
        .or_else(|| last(u8::is_ascii_whitespace))
        .or_else(|| safe.iter().rposition(|&byte| byte & 0xC0 != 0x80))
        .filter(|&end| end > 0)
        .unwrap_or(safe.len())
}
