//! What a safetensors file says of itself beside its tensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result};

/// Longer headers are damaged: the format's own limit.
const MOST_BYTES: u64 = 100_000_000;

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", default)]
    metadata: BTreeMap<String, String>,
}

/// The texts that a safetensors file has by name; none of a file of another kind.
///
/// # Errors
/// [`Error::Io`].
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut length = [0; 8];
    let mut header = vec![];
    if file.read_exact(&mut length).is_ok() && u64::from_le_bytes(length) <= MOST_BYTES {
        let most = u64::from_le_bytes(length);
        file.take(most).read_to_end(&mut header).map_err(Error::io(path))?;
    }
    Ok(serde_json::from_slice::<Header>(&header).map(|h| h.metadata).unwrap_or_default())
}
