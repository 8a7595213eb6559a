//! What keeps objects from being deleted: versions, object lock and its dates.
use std::time::{Duration, Instant};

use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    primitives::DateTime,
    types::{BucketVersioningStatus, ObjectLockEnabled, ObjectLockRetention, ObjectLockRetentionMode},
};
use jiff::Timestamp;

use super::{Call, S3Target, SHORT};
use crate::{DefaultRetention, ErrorKind, Immutability, Key, RetentionMode, TargetError, Version};

/// How long what the bucket is set to is believed: people switch versioning on while we run.
const BELIEVED: Duration = Duration::from_secs(60);

/// Mode and end of a lock, where there is one.
type Lock = Option<(RetentionMode, Timestamp)>;

impl S3Target {
    /// What the bucket is set to, asked at most once a minute.
    pub(super) async fn settings(&self, call: Call<'_>) -> Result<Immutability, TargetError> {
        let known = *self
            .settings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((asked, settings)) = known
            && asked.elapsed() < BELIEVED
        {
            return Ok(settings);
        }
        let versioned = self.retry(call, SHORT, |_| self.is_versioned(call)).await?;
        let settings = match versioned {
            true => self.retry(call, SHORT, |_| self.lock_settings(call)).await?,
            false => Immutability::default(),
        };
        *self
            .settings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some((Instant::now(), settings));
        Ok(settings)
    }

    /// Whether names may stand for several versions.
    pub(super) async fn versioned(&self, call: Call<'_>) -> Result<bool, TargetError> {
        Ok(self.settings(call).await?.versioned)
    }

    async fn is_versioned(&self, call: Call<'_>) -> Result<bool, TargetError> {
        let sent = self.client.get_bucket_versioning().bucket(&self.bucket).send();
        match sent.await {
            Ok(output) => Ok(matches!(
                output.status(),
                Some(BucketVersioningStatus::Enabled | BucketVersioningStatus::Suspended)
            )),
            Err(error) => match call.explain_setting(&error) {
                error if error.kind() == ErrorKind::Unsupported => Ok(false),
                error => Err(error),
            },
        }
    }

    async fn lock_settings(&self, call: Call<'_>) -> Result<Immutability, TargetError> {
        let plain = Immutability {
            versioned: true,
            ..Immutability::default()
        };
        let sent = self
            .client
            .get_object_lock_configuration()
            .bucket(&self.bucket)
            .send();
        let output = match sent.await {
            Ok(output) => output,
            Err(error) => {
                let error = call.explain_setting(&error);
                return match error.kind() {
                    ErrorKind::Unsupported | ErrorKind::NotFound => Ok(plain),
                    _ => Err(error),
                };
            }
        };
        let found = output.object_lock_configuration();
        let lockable =
            found.and_then(|found| found.object_lock_enabled()) == Some(&ObjectLockEnabled::Enabled);
        let rule = found.and_then(|found| found.rule()?.default_retention());
        let default = rule.and_then(|rule| {
            let days = rule
                .days()
                .or(rule.years().map(|years| years.saturating_mul(366)))?;
            Some(DefaultRetention {
                mode: mode_of(rule.mode()?),
                days: u32::try_from(days).ok()?,
            })
        });
        Ok(Immutability {
            versioned: true,
            lockable,
            default,
        })
    }

    /// How a version is locked.
    pub(super) async fn retention(
        &self,
        call: Call<'_>,
        key: &Key,
        version: &Version,
    ) -> Result<Lock, TargetError> {
        self.retry(call, SHORT, |_| async move {
            let request = self.client.get_object_retention().bucket(&self.bucket);
            let request = request.key(key.as_str()).version_id(version.as_str());
            let error = match request.send().await {
                Ok(output) => return read_retention(call, output.retention()),
                Err(error) => error,
            };
            match &error {
                SdkError::ServiceError(service) if service.raw().status().as_u16() == 200 => {
                    read_other_words(call, service.raw().body().bytes().unwrap_or_default())
                }
                _ if error.code() == Some("NoSuchObjectLockConfiguration") => Ok(None),
                _ => Err(call.explain_setting(&error)),
            }
        })
        .await
    }

    /// Locks a version in compliance mode at least until then, and looks whether the store did.
    pub(super) async fn lock_version(
        &self,
        call: Call<'_>,
        key: &Key,
        version: &Version,
        until: Timestamp,
    ) -> Result<(), TargetError> {
        let holds = |found: Lock| {
            found.is_some_and(|(mode, date)| mode == RetentionMode::Compliance && date >= until)
        };
        let before = self.retention(call, key, version).await?;
        if holds(before) {
            return Ok(());
        }
        // A later date of the weaker mode stays the date.
        let until = before.map_or(until, |(_, date)| date.max(until));
        let whole = until.as_second() + i64::from(until.subsec_nanosecond() > 0);
        let retention = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Compliance)
            .retain_until_date(DateTime::from_secs(whole))
            .build();
        let retention = &retention;
        let locked = self
            .retry(call, SHORT, |_| async move {
                let sent = self
                    .client
                    .put_object_retention()
                    .bucket(&self.bucket)
                    .key(key.as_str())
                    .version_id(version.as_str())
                    .retention(retention.clone())
                    .send();
                sent.await
                    .map(|_| ())
                    .map_err(|error| call.explain_setting(&error))
            })
            .await;
        match (holds(self.retention(call, key, version).await?), locked) {
            // Also where another writer locked it for longer in between, which made the store refuse ours.
            (true, _) => Ok(()),
            (false, Ok(())) => {
                Err(call.error(ErrorKind::Other, "the store took the lock, but does not have it"))
            }
            (false, Err(error)) => Err(error),
        }
    }
}

fn mode_of(found: &ObjectLockRetentionMode) -> RetentionMode {
    match found {
        ObjectLockRetentionMode::Compliance => RetentionMode::Compliance,
        _ => RetentionMode::Governance,
    }
}

fn read_retention(call: Call<'_>, found: Option<&ObjectLockRetention>) -> Result<Lock, TargetError> {
    let (Some(mode), Some(until)) = (
        found.and_then(ObjectLockRetention::mode),
        found.and_then(ObjectLockRetention::retain_until_date),
    ) else {
        return Ok(None);
    };
    // Rounded up: what is locked until the middle of a second is locked in that second.
    let whole = until.secs() + i64::from(until.subsec_nanos() > 0);
    let until = Timestamp::from_second(whole)
        .map_err(|error| call.error(ErrorKind::Protocol, format!("its lock ends at no time: {error}")))?;
    Ok(Some((mode_of(mode), until)))
}

/// Reads an answer whose outermost element has another name than Amazon's, as versitygw's has, so that the SDK refuses
/// it.
fn read_other_words(call: Call<'_>, body: &[u8]) -> Result<Lock, TargetError> {
    let text = String::from_utf8_lossy(body);
    let field = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once('<')?.0.trim().to_owned())
    };
    let unreadable = || {
        call.error(
            ErrorKind::Protocol,
            "what the store says of its lock cannot be read",
        )
    };
    let mode = field("Mode").ok_or_else(unreadable)?;
    let until = field("RetainUntilDate").and_then(|date| date.parse::<Timestamp>().ok());
    let until = until.ok_or_else(unreadable)?;
    let retention = ObjectLockRetention::builder()
        .mode(ObjectLockRetentionMode::from(mode.as_str()))
        .retain_until_date(DateTime::from_nanos(until.as_nanosecond()).map_err(|_| unreadable())?)
        .build();
    read_retention(call, Some(&retention))
}
