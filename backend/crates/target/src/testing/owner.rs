//! What the owner of a store does against us, past everything that we promise.
use aws_sdk_s3::{
    primitives::{ByteStream, DateTime},
    types::{ObjectLockRetention, ObjectLockRetentionMode},
};
use jiff::{SignedDuration, Timestamp};

use crate::{Key, ObjectMeta, S3Target};

/// The owner of a bucket with versions, with every right that its store gives.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'t>(pub &'t S3Target);

impl Owner<'_> {
    /// Puts a newer version over a name, which every store takes.
    pub async fn overwrite(&self, key: &Key, body: &[u8]) {
        let request = self.0.client.put_object().bucket(&self.0.bucket);
        let request = request.key(key.as_str()).body(ByteStream::from(body.to_vec()));
        request.send().await.expect("a newer version");
    }

    /// Puts a delete marker over a name, which every store takes.
    pub async fn delete(&self, key: &Key) {
        let request = self.0.client.delete_object().bucket(&self.0.bucket);
        let sent = request.key(key.as_str()).send().await.expect("a delete marker");
        assert_eq!(sent.delete_marker(), Some(true), "{key} has versions");
    }

    /// Whether the store deletes this very version.
    pub async fn delete_version(&self, meta: &ObjectMeta) -> bool {
        let request = self.0.client.delete_object().bucket(&self.0.bucket);
        let request = request.key(meta.key.as_str()).bypass_governance_retention(true);
        request.version_id(version(meta)).send().await.is_ok()
    }

    /// Whether the store lets the lock of this version end in some seconds.
    pub async fn shorten(&self, meta: &ObjectMeta) -> bool {
        let soon = Timestamp::now() + SignedDuration::from_secs(5);
        let retention = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Compliance)
            .retain_until_date(DateTime::from_secs(soon.as_second()))
            .build();
        let request = self.0.client.put_object_retention().bucket(&self.0.bucket);
        let request = request.key(meta.key.as_str()).version_id(version(meta));
        let request = request.bypass_governance_retention(true);
        request.retention(retention).send().await.is_ok()
    }

    /// How many versions and delete markers there are, of at most a thousand names.
    pub async fn count(&self) -> (usize, usize) {
        let request = self.0.client.list_object_versions().bucket(&self.0.bucket);
        let sent = request.send().await.expect("a list of versions");
        (sent.versions().len(), sent.delete_markers().len())
    }
}

fn version(meta: &ObjectMeta) -> &str {
    meta.version.as_ref().expect("the bucket has versions").as_str()
}
