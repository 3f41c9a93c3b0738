//! Writes the descriptor set of the contract to stdout, without comments: what `released/` keeps of a release.

use dssd_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::{
    error::Error,
    io::{self, Write as _},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)?;
    for file in &mut set.file {
        file.source_code_info = None;
    }
    io::stdout().write_all(&set.encode_to_vec())?;
    Ok(())
}
