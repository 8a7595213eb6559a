//! What a merge is told.
use holdfast_qcow2::ClusterSize;
use holdfast_seal::KeyId;
use holdfast_target::layout::{FileStem, ImageRecord, VolumeHome};
use serde::{Deserialize, Serialize};

use super::check_run;
use crate::MoverError;

/// Make one image of neighbouring ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MergeJob {
    /// Where the images of the volume lie.
    pub home: VolumeHome,
    /// The images to merge, newest first, each followed by its parent. What the oldest one lies upon, if anything, is
    /// what the merged image lies upon.
    pub run: Vec<ImageRecord>,
    /// What the new files are called: after the newest image and the generation they are made for.
    pub files: FileStem,
    /// The data key under which new bytes are sealed, that of the newest image; absent: everything lies in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<KeyId>,
}

impl MergeJob {
    /// Checks that it makes sense, and returns the cluster size of the run.
    pub(crate) fn check(&self) -> Result<ClusterSize, MoverError> {
        let cluster_size = check_run(&self.run)?;
        let stems = self.run.iter().filter_map(ImageRecord::stem);
        if self.files.image != self.run[0].id
            || self.files.merged.is_none()
            || stems.into_iter().any(|stem| stem == self.files)
        {
            let (files, newest) = (&self.files, &self.run[0].id);
            return Err(MoverError::Job(format!(
                "{files} is no new name for files of image {newest}"
            )));
        }
        let mut objects = self.run.iter().flat_map(|record| &record.shards);
        let sealed = objects.any(|shard| shard.image.seal.is_some() || shard.index.seal.is_some());
        if sealed && self.seal.is_none() {
            let what = "images are sealed, and there is no key to seal the merged one with";
            return Err(MoverError::Job(what.to_owned()));
        }
        Ok(cluster_size)
    }
}
