//! What the files of an image are called.
use std::{fmt, str::FromStr};

use super::{Generation, ImageId, NameError, ShardNumber};

/// What the files of an image are called, up to their shards: `<image>`, or `<image>-m<generation>` when they were made
/// by merging others. An id stays the same when its image is merged with those below; its files are new ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileStem {
    /// The image.
    pub image: ImageId,
    /// The generation of the chain that the files were merged for; absent in those that a backup wrote.
    pub merged: Option<Generation>,
}

impl FileStem {
    /// File name of the image of a shard; matches `[a-z0-9-]+\.qcow2`.
    pub fn image_name(&self, shard: ShardNumber) -> String {
        format!("{self}-s{shard}.qcow2")
    }

    /// File name of the index of a shard's image.
    pub fn index_name(&self, shard: ShardNumber) -> String {
        format!("{self}-s{shard}.index")
    }

    /// Takes the name of an image or an index apart; `None` for every other name.
    pub fn of_file(name: &str) -> Option<(Self, ShardNumber)> {
        let rest = name
            .strip_suffix(".qcow2")
            .or_else(|| name.strip_suffix(".index"))?;
        Self::of_shard(rest)
    }

    /// Takes `<files>-s<shard>` apart.
    pub(super) fn of_shard(text: &str) -> Option<(Self, ShardNumber)> {
        let (stem, digits) = text.rsplit_once("-s")?;
        let shard: u32 = digits.parse().ok()?;
        let plain = shard.to_string() == digits;
        plain.then(|| Some((stem.parse().ok()?, ShardNumber(shard))))?
    }
}

impl From<&Self> for FileStem {
    fn from(stem: &Self) -> Self {
        stem.clone()
    }
}

impl From<&ImageId> for FileStem {
    fn from(image: &ImageId) -> Self {
        Self {
            image: image.clone(),
            merged: None,
        }
    }
}

impl fmt::Display for FileStem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.merged {
            Some(generation) => write!(f, "{}-m{generation}", self.image),
            None => self.image.fmt(f),
        }
    }
}

impl FromStr for FileStem {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // The id of an image ends in its attempt, so what ends in a generation is none.
        let merged = text.rsplit_once("-m").and_then(|(image, digits)| {
            let generation: u64 = digits.parse().ok()?;
            (generation.to_string() == digits).then_some((image, Generation(generation)))
        });
        match merged {
            Some((image, generation)) => Ok(Self {
                image: image.parse()?,
                merged: Some(generation),
            }),
            None => Ok(Self {
                image: text.parse()?,
                merged: None,
            }),
        }
    }
}
