//! Buckets as their owner sets them up.
use std::sync::Arc;

use aws_sdk_s3::{
    Client,
    types::{
        BucketVersioningStatus, DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled,
        ObjectLockRetentionMode, ObjectLockRule, VersioningConfiguration,
    },
};

use crate::S3Target;

impl S3Target {
    /// The client below, to do what only the owner of the store or an intruder does.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same, asking anew what the bucket is set to, as happens after a minute.
    #[must_use]
    pub fn with_fresh_settings(mut self) -> Self {
        self.settings = Arc::default();
        self
    }

    /// Turns versioning of the bucket on.
    pub async fn enable_versioning(&self) {
        let configuration = VersioningConfiguration::builder()
            .status(BucketVersioningStatus::Enabled)
            .build();
        let request = self.client.put_bucket_versioning().bucket(&self.bucket);
        let sent = request.versioning_configuration(configuration).send().await;
        sent.expect("the store has versions");
    }

    /// Makes the bucket with object lock, and a lock of so many days on every new object if asked for.
    pub async fn create_locking_bucket(&self, default_days: Option<i32>) {
        let request = self.client.create_bucket().bucket(&self.bucket);
        let sent = request.object_lock_enabled_for_bucket(true).send().await;
        sent.expect("a new bucket");
        let Some(days) = default_days else { return };
        let retention = DefaultRetention::builder()
            .mode(ObjectLockRetentionMode::Compliance)
            .days(days)
            .build();
        let configuration = ObjectLockConfiguration::builder()
            .object_lock_enabled(ObjectLockEnabled::Enabled)
            .rule(ObjectLockRule::builder().default_retention(retention).build())
            .build();
        let request = self.client.put_object_lock_configuration().bucket(&self.bucket);
        let sent = request.object_lock_configuration(configuration).send().await;
        sent.expect("a default retention");
    }
}
