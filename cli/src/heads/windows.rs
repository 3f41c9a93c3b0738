//! Documents as windows of tokens: the text's own, or the model's continuations of it.

use super::progress;
use anyhow::{Context as _, Result};
use clap::ValueEnum;
use dssd_common::{checkpoint::Checkpoint, exit::ExitHeads};
use dssd_heads::{
    backbone::Machine,
    calibrate::Window,
    corpus::{Corpus, Encoder, HELD_OUT_SHARE, held_out},
    self_text::{SelfTextSettings, continuations},
};
use std::path::PathBuf;

/// Which documents of a text are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Documents {
    /// Those that `heads train` kept for measuring.
    HeldOut,
    /// All.
    All,
}

impl Documents {
    /// Whether these heads were trained without the held-out documents, where those are meant.
    ///
    /// # Errors
    /// If they were not.
    pub(super) fn check(self, heads: &ExitHeads) -> Result<()> {
        anyhow::ensure!(
            self == Self::All || heads.held_out_share == HELD_OUT_SHARE,
            "--documents held-out: no such documents were kept from these heads; give text that they \
             never saw, and --documents all"
        );
        Ok(())
    }

    /// Their windows, until these hold `tokens` tokens.
    ///
    /// # Errors
    /// If the text cannot be read, or has no such document.
    pub(super) fn windows(
        self,
        text: &[PathBuf],
        encoder: &Encoder,
        window: usize,
        tokens: usize,
    ) -> Result<Vec<Window>> {
        let share = match self {
            Self::HeldOut => HELD_OUT_SHARE,
            Self::All => 0,
        };
        let texts = held_out(Corpus::open(text)?, encoder, share, window, tokens)
            .context("no text to measure on; --documents all takes every document")?;
        let windows = texts.into_iter().map(|(document, tokens)| Window {
            document: u32::try_from(document).unwrap_or(u32::MAX),
            tokens,
            first: 0,
        });
        Ok(windows.collect())
    }

    /// In words, with the names of the files.
    pub(super) fn describe(self, text: &[PathBuf]) -> String {
        let names = text.iter().filter_map(|path| path.file_name());
        let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
        let documents = match self {
            Self::HeldOut => "held-out documents of ",
            Self::All => "",
        };
        format!("{documents}{}", names.join(", "))
    }
}

/// The model's continuations of the first `beginning` tokens of each window that has more; only
/// what the model chose counts.
///
/// # Errors
/// If no window is as long.
pub(super) fn continued(
    checkpoint: &Checkpoint,
    machine: &Machine,
    settings: &SelfTextSettings,
    texts: &[Window],
    beginning: usize,
) -> Result<Vec<Window>> {
    let (documents, prompts): (Vec<u32>, Vec<Vec<u32>>) = texts
        .iter()
        .filter(|window| window.tokens.len() > beginning)
        .map(|window| (window.document, window.tokens[..beginning].to_vec()))
        .unzip();
    anyhow::ensure!(
        !prompts.is_empty(),
        "no document has more than {beginning} tokens, so there is nothing to continue"
    );
    let bar = progress(prompts.len(), "the model continues the texts")?;
    let observer = &mut |done| bar.set_position(done as u64);
    let written = continuations(checkpoint, machine, settings, prompts, observer)?;
    bar.finish_and_clear();
    let mut windows: Vec<Window> = written
        .into_iter()
        .map(|written| Window {
            document: documents[written.prompt as usize],
            // The row of the prompt's last token is the first that chose a token.
            first: written.prompt_length - 1,
            tokens: written.token_ids,
        })
        .collect();
    windows.sort_by_key(|window| window.document);
    Ok(windows)
}
