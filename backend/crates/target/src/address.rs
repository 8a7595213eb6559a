//! Where a store is, as a mover is told.
use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Connection, DirectoryTarget, Patience, S3Target, StoreId, Target, TargetError};

/// A store that can be opened. Read with serde; written only by [`Address::expose_json`], because the text may hold a
/// secret key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Address {
    /// A bucket.
    ObjectStore(Connection),
    /// A folder that is mounted here.
    Directory(Directory),
}

/// A folder, and the store that must be in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Directory {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Without this store in it, nothing is read or written there.
    pub store: StoreId,
}

impl Address {
    /// The address as JSON **with the secret key in clear**, for the Secret that a mover pod mounts. Nothing else writes
    /// it out.
    pub fn expose_json(&self) -> Value {
        match self {
            Self::ObjectStore(connection) => json!({ "objectStore": connection.expose_json() }),
            Self::Directory(directory) => json!({ "directory": directory }),
        }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// Those of [`S3Target::connect`] and [`DirectoryTarget::open`].
    pub async fn open(&self, patience: Patience) -> Result<Arc<dyn Target>, TargetError> {
        Ok(match self {
            Self::ObjectStore(connection) => Arc::new(S3Target::connect(connection)?.with_patience(patience)),
            Self::Directory(Directory { path, store }) => {
                Arc::new(DirectoryTarget::open(path, store).await?.with_patience(patience))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let folder = r#"{"directory":{"path":"/mnt","store":"0a0b0c0d-0000-4000-8000-000000000001"}}"#;
        let bucket = r#"{"objectStore":{"bucket":"b","accessKey":"ak","secretKey":"s3cr3t"}}"#;
        for text in [folder, bucket] {
            let address: Address = serde_json::from_str(text).unwrap();
            let again: Address = serde_json::from_value(address.expose_json()).unwrap();
            assert_eq!(again.expose_json(), address.expose_json());
            assert!(!format!("{address:?}").contains("s3cr3t"));
        }
    }

    #[tokio::test]
    async fn a_folder_without_the_store_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Directory(Directory {
            path: folder.path().to_owned(),
            store: "0a0b0c0d-0000-4000-8000-000000000001".parse().unwrap(),
        });
        let error = address.open(Patience::INTERACTIVE).await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NotMounted);
        let id = DirectoryTarget::create(folder.path())
            .await
            .unwrap()
            .id()
            .unwrap();
        let path = folder.path().to_owned();
        let address = Address::Directory(Directory { path, store: id });
        address.open(Patience::INTERACTIVE).await.unwrap();
    }
}
