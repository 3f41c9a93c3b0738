//! What a report is made from: text, the model's continuations of it, and prompts.

use super::{Amounts, document::TextLine};
use crate::{
    check::prompts,
    heads::windows::{Documents, continued},
};
use anyhow::{Result, ensure};
use dssd_common::checkpoint::Checkpoint;
use dssd_heads::{
    backbone::Machine, calibrate::Window, corpus::Encoder, self_text::SelfTextSettings,
};
use dssd_proto::v1::{TokenIds, generate_request::Prompt};
use std::path::PathBuf;

/// Tokens of a document that begin a continuation, or a prompt.
const BEGINNING: usize = 16;
/// Continuations, however few positions are wanted.
const FEWEST: usize = 4;
/// Temperatures of the continuations, as calibration takes them by default.
const TEMPERATURES: [f32; 2] = [0.0, 0.8];
/// Longest window, unless the model is made for less.
const LONGEST: usize = 256;

/// Where everything comes from.
#[derive(clap::Args)]
pub(super) struct MaterialArgs {
    /// Text, as for `heads train`; best one that neither training nor calibration saw
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(super) text: Vec<PathBuf>,
    /// Which documents: those that `heads train` kept for measuring, or all (for text that it never saw)
    #[arg(long, value_enum, default_value_t = Documents::HeldOut)]
    pub(super) documents: Documents,
    /// Prompts for the running pair, one a line, or JSON lines with `prompt` or `turns` [default: the beginnings of the documents]
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Tokens of text to read, at most [default: 40000; 1000 with --quick]
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
}

/// Windows and prompts.
pub(super) struct Material {
    /// What the text is, for people.
    pub(super) description: String,
    pub(super) text: Vec<Window>,
    pub(super) continuations: Vec<Window>,
    pub(super) prompts: Vec<Prompt>,
    /// Most tokens of a window.
    pub(super) longest: usize,
}

impl MaterialArgs {
    /// Reads the text and lets the model continue it.
    ///
    /// # Errors
    /// If a file cannot be read, or holds too little.
    pub(super) fn gather(
        &self,
        checkpoint: &Checkpoint,
        encoder: &Encoder,
        machine: &Machine,
        amounts: &Amounts,
    ) -> Result<Material> {
        let given = (self.prompts.as_deref()).map(prompts::read).transpose()?;
        if let Some(prompts) = &given {
            enough(prompts.len(), "--prompts")?;
        }
        let longest = checkpoint.config().max_positions.min(LONGEST);
        let tokens = self.tokens.unwrap_or(amounts.tokens);
        let text = self
            .documents
            .windows(&self.text, encoder, longest, tokens)?;
        let prompts = match given {
            Some(prompts) => prompts.into_iter().map(Prompt::Text).collect(),
            None => beginnings(&text),
        };
        enough(prompts.len(), "--text")?;
        let settings = SelfTextSettings {
            temperatures: TEMPERATURES.to_vec(),
            longest,
            seed: amounts.seed,
        };
        // About as many positions as of the text.
        let begun = &text[..text.len().min((tokens / longest).max(FEWEST))];
        let continuations = continued(checkpoint, machine, &settings, begun, BEGINNING)?;
        Ok(Material {
            description: self.documents.describe(&self.text),
            text,
            continuations,
            prompts,
            longest,
        })
    }
}

impl Material {
    /// What the report says of it.
    pub(super) fn line(&self, prompts: [usize; 2]) -> TextLine {
        let positions = |windows: &[Window]| -> usize {
            let each = windows.iter().map(|w| w.tokens.len() - 1 - w.first);
            each.sum()
        };
        let mut documents: Vec<u32> = self.text.iter().map(|window| window.document).collect();
        documents.dedup();
        TextLine {
            description: self.description.clone(),
            documents: documents.len(),
            positions: positions(&self.text),
            continuation_positions: positions(&self.continuations),
            prompts,
        }
    }
}

/// Settings are chosen on some prompts and compared on others.
fn enough(prompts: usize, flag: &str) -> Result<()> {
    ensure!(
        prompts >= 2,
        "{prompts} prompts from {flag}: settings are chosen on some and compared on others, so \
         give at least two, and better sixty"
    );
    Ok(())
}

/// The first tokens of each document that has more.
fn beginnings(text: &[Window]) -> Vec<Prompt> {
    let mut last = None;
    let begins = |window: &&Window| {
        last.replace(window.document) != Some(window.document) && window.tokens.len() > BEGINNING
    };
    text.iter()
        .filter(begins)
        .map(|window| {
            Prompt::TokenIds(TokenIds {
                ids: window.tokens[..BEGINNING].to_vec(),
            })
        })
        .collect()
}
