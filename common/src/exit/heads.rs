//! Trained exit heads: `exit_heads.json` describes them, `exit_heads.safetensors` holds them.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::{
    calibration::Calibration,
    description::{
        DESCRIPTION, Description, FORMAT, HeadDescription, KindName, WEIGHTS, check_format,
        check_same, invalid,
    },
    reader::{Reader, tensor_name},
};
use crate::{
    checkpoint::{Checkpoint, TensorData, hex, json_file},
    error::{Error, Result},
    tokenizer,
};

/// The trained heads of one checkpoint.
#[derive(Clone, Debug)]
pub struct ExitHeads {
    /// Fingerprint of the checkpoint that they were trained on.
    pub checkpoint_fingerprint: String,
    /// SHA-256 of that checkpoint's `tokenizer.json`, where it had one.
    pub tokenizer_hash: Option<String>,
    /// One document in so many of the text was kept from training; 0: none was.
    pub held_out_share: u64,
    /// The heads, from shallow to deep, no two at one layer.
    pub heads: Vec<ExitHead>,
    /// What they were calibrated to, where they were.
    pub calibration: Option<Calibration>,
}

/// One head: a norm of the model's kind, then what turns its output into logits.
#[derive(Clone, Debug)]
pub struct ExitHead {
    /// Layers that run before the head; below the number of layers of the model.
    pub layer: usize,
    /// Share of held-out tokens for which its arg-max was the whole model's, where measured.
    pub agreement: Option<f64>,
    /// Gain of the norm, `[hidden]`.
    pub norm_weight: TensorData,
    /// Bias of the norm, `[hidden]`; there exactly if the model's norms are layer norms.
    pub norm_bias: Option<TensorData>,
    /// What follows the norm.
    pub kind: HeadKind,
}

/// The two kinds of heads.
#[derive(Clone, Debug)]
pub enum HeadKind {
    /// `logits = weight · x + bias`.
    Linear {
        /// `[vocabulary, hidden]`.
        weight: TensorData,
        /// `[vocabulary]`, where there is one.
        bias: Option<TensorData>,
    },
    /// `logits = unembedding · (x + up · silu(down · x))`, with the model's own LM head.
    Adapter {
        /// `[rank, hidden]`.
        down: TensorData,
        /// `[hidden, rank]`.
        up: TensorData,
    },
}

impl ExitHeads {
    /// Whether a folder holds trained heads.
    pub fn exist(dir: &Path) -> bool {
        dir.join(DESCRIPTION).exists()
    }

    /// Opens the heads in `dir`, which must have been made for `checkpoint`, and their
    /// calibration where there is one.
    pub fn open(dir: &Path, checkpoint: &Checkpoint) -> Result<Self> {
        let path = dir.join(DESCRIPTION);
        let description: Description = json_file::read_sealed(&path)?;
        check_format(&path, description.format)?;
        check_same(
            "exit heads' checkpoint fingerprint",
            &checkpoint.fingerprint()?,
            &description.checkpoint_fingerprint,
        )?;
        if let Some(hash) = checkpoint
            .dir()
            .map(tokenizer::file_hash)
            .transpose()?
            .flatten()
        {
            let found = description.tokenizer_hash.as_deref().unwrap_or("none");
            check_same("exit heads' tokenizer hash", &hash, found)?;
        }
        let reader = Reader::open(&dir.join(WEIGHTS), checkpoint.config())?;
        let heads = description
            .heads
            .iter()
            .map(|head| reader.head(&path, head))
            .collect::<Result<Vec<_>>>()?;
        if !heads.is_sorted_by(|a, b| a.layer < b.layer) {
            return Err(invalid(
                &path,
                "heads must be listed from shallow to deep, one for a layer",
            ));
        }
        reader.refuse_strangers(&heads)?;
        let mut opened = Self {
            checkpoint_fingerprint: description.checkpoint_fingerprint,
            tokenizer_hash: description.tokenizer_hash,
            held_out_share: description.held_out_share,
            heads,
            calibration: None,
        };
        let hash = opened.hash();
        check_same("exit heads' hash", &description.heads_hash, &hash)?;
        opened.calibration = Calibration::open(dir, &opened, &hash)?;
        Ok(opened)
    }

    /// The heads in `dir`, or without one those in the checkpoint's own folder, if it has any.
    ///
    /// # Errors
    /// As [`ExitHeads::open`].
    pub fn find(dir: Option<&Path>, checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let beside = || checkpoint.dir().filter(|dir| Self::exist(dir));
        let dir = dir.or_else(beside);
        dir.map(|dir| Self::open(dir, checkpoint)).transpose()
    }

    /// Writes the heads, and their calibration where there is one.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let io = |source| Error::Io {
            path: dir.into(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(io)?;
        let description = Description {
            format: FORMAT,
            checkpoint_fingerprint: self.checkpoint_fingerprint.clone(),
            tokenizer_hash: self.tokenizer_hash.clone(),
            held_out_share: self.held_out_share,
            heads_hash: self.hash(),
            heads: self.heads.iter().map(ExitHead::describe).collect(),
        };
        let (path, new) = (dir.join(WEIGHTS), dir.join(format!("{WEIGHTS}.new")));
        let bytes = safetensors::serialize(self.tensors(), None)
            .map_err(|error| invalid(&path, error.to_string()))?;
        std::fs::write(&new, bytes)
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(io)?;
        // Last, because a folder that has it has heads.
        json_file::write_sealed(&dir.join(DESCRIPTION), &description)?;
        self.save_calibration(dir)
    }

    /// Writes the calibration alone, where there is one, beside heads that are there already.
    pub fn save_calibration(&self, dir: &Path) -> Result<()> {
        match &self.calibration {
            Some(calibration) => calibration.save(dir),
            None => Ok(()),
        }
    }

    /// Hash over all heads, lower-case hexadecimal: what a calibration names them by.
    pub fn hash(&self) -> String {
        let mut tensors: Vec<_> = self.tensors().collect();
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut hash = Sha256::new();
        for (name, tensor) in tensors {
            hash.update(format!("{name} {:?} {:?}\n", tensor.dtype, tensor.shape));
            hash.update(&tensor.bytes);
        }
        hex(&hash.finalize())
    }

    fn tensors(&self) -> impl Iterator<Item = (String, &TensorData)> {
        self.heads.iter().flat_map(|head| {
            head.tensors()
                .map(|(part, tensor)| (tensor_name(head.layer, part), tensor))
        })
    }
}

impl ExitHead {
    /// The head's tensors and their names inside it.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&'static str, &TensorData)> {
        let [(first, a), (second, b)] = match &self.kind {
            HeadKind::Linear { weight, bias } => [
                ("linear.weight", Some(weight)),
                ("linear.bias", bias.as_ref()),
            ],
            HeadKind::Adapter { down, up } => {
                [("down.weight", Some(down)), ("up.weight", Some(up))]
            }
        };
        let norm = [
            ("norm.weight", Some(&self.norm_weight)),
            ("norm.bias", self.norm_bias.as_ref()),
        ];
        norm.into_iter()
            .chain([(first, a), (second, b)])
            .filter_map(|(name, tensor)| Some((name, tensor?)))
    }

    fn describe(&self) -> HeadDescription {
        let (kind, rank) = match &self.kind {
            HeadKind::Linear { .. } => (KindName::Linear, None),
            HeadKind::Adapter { down, .. } => (KindName::Adapter, down.shape.first().copied()),
        };
        HeadDescription {
            layer: self.layer,
            kind,
            rank,
            agreement: self.agreement,
        }
    }
}
