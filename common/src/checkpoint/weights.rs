//! The safetensors files of a folder, memory-mapped.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use safetensors::{SafeTensors, tensor::TensorInfo};
use serde::Deserialize;

use super::{
    json_file,
    tensor::{TensorData, weight_type},
};
use crate::{
    bytes::SharedBytes,
    error::{Error, Result},
};

/// File of a checkpoint that is not sharded.
pub(super) const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// A mapped safetensors file.
pub(crate) struct WeightFile {
    pub(crate) path: PathBuf,
    map: Arc<Mmap>,
    /// Where the tensors' bytes begin, after the header.
    data: usize,
    tensors: BTreeMap<String, TensorInfo>,
}

impl WeightFile {
    /// Maps the file and checks its header against its length.
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let io = |source| Error::Io {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the mapping is only ever read, as plain bytes. Whoever changes or truncates
        // the file of a model in use breaks the promise that the operator's guide states.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| Error::InvalidFile {
                path: path.clone(),
                reason: format!(
                    "not a whole safetensors file ({error}); it may be truncated: fetch it again"
                ),
            })?;
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.clone()))
            .collect();
        // The header follows its own length, a u64.
        Ok(Self {
            path,
            map: Arc::new(map),
            data: size_of::<u64>() + header,
            tensors,
        })
    }

    /// Names of all tensors in the file.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Where the bytes of a tensor lie in the file.
    pub(crate) fn range(&self, name: &str) -> Option<Range<usize>> {
        let (start, end) = self.tensors.get(name)?.data_offsets;
        Some(self.data + start..self.data + end)
    }

    /// A tensor of the file, in a number format that weights may have.
    pub(crate) fn tensor(&self, name: &str) -> Result<TensorData> {
        let wrong = |reason| Error::Tensor {
            tensor: name.into(),
            reason,
        };
        let missing = || wrong(format!("missing from {}", self.path.display()));
        let info = self.tensors.get(name).ok_or_else(missing)?;
        let dtype = weight_type(info.dtype).ok_or_else(|| {
            wrong(format!(
                "{} in {} is not supported, only F32, F16 and BF16",
                info.dtype,
                self.path.display()
            ))
        })?;
        let range = self.range(name).ok_or_else(missing)?;
        let bytes = SharedBytes::new(self.map.clone(), range).ok_or_else(missing)?;
        TensorData::new(name, dtype, info.shape.clone(), bytes)
    }
}

/// All weight files of a folder and which tensor is in which.
pub(super) struct WeightFiles {
    pub(super) files: Vec<WeightFile>,
    /// Tensor name to an index into `files`.
    pub(super) places: BTreeMap<String, usize>,
}

impl WeightFiles {
    /// Opens `model.safetensors`, or every shard that the index names.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let single = dir.join(SINGLE_FILE);
        if single.exists() {
            let file = WeightFile::open(single)?;
            let places = file.names().map(|name| (name.into(), 0)).collect();
            return Ok(Self {
                files: vec![file],
                places,
            });
        }
        let index = dir.join(INDEX_FILE);
        if index.exists() {
            Self::open_shards(&index)
        } else {
            Err(no_weights(dir))
        }
    }

    /// The file that holds the tensor.
    pub(super) fn file_of(&self, name: &str) -> Option<&WeightFile> {
        self.places.get(name).map(|&file| &self.files[file])
    }

    /// Names of all tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    fn open_shards(index: &Path) -> Result<Self> {
        let invalid = |reason| Error::InvalidFile {
            path: index.into(),
            reason,
        };
        let Index { weight_map } = json_file::read(index)?;
        let (mut files, mut numbers, mut places) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (tensor, shard) in weight_map {
            if !is_plain_name(&shard) {
                return Err(invalid(format!(
                    "shard `{shard}` of tensor `{tensor}` must be a file of the same folder"
                )));
            }
            let number = match numbers.get(&shard) {
                Some(&number) => number,
                None => {
                    files.push(WeightFile::open(index.with_file_name(&shard))?);
                    numbers.insert(shard, files.len() - 1);
                    files.len() - 1
                }
            };
            places.insert(tensor, number);
        }
        Ok(Self { files, places })
    }
}

/// `model.safetensors.index.json`; its metadata is not needed.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// An index must not lead out of its folder.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    )
}

fn no_weights(dir: &Path) -> Error {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"].map(|name| dir.join(name));
    match pickled.into_iter().find(|path| path.exists()) {
        Some(path) => Error::InvalidFile {
            path,
            reason: "pickled weights are not read: load the model with transformers and save it again with \
                     `save_pretrained(…, safe_serialization=True)`"
                .into(),
        },
        None => Error::InvalidFile { path: dir.into(), reason: format!("has neither {SINGLE_FILE} nor {INDEX_FILE}") },
    }
}
