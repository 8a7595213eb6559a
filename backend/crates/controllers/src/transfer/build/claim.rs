//! Claims of the mover: always Block, whatever the application uses.

use holdfast_crd::VolumeTransfer;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use super::{Names, owned};

/// A claim made from our snapshot. It is at least as large as the driver asks for and as the volume was.
pub(in crate::transfer) fn claim_from_snapshot(
    transfer: &VolumeTransfer,
    names: &Names,
    restore_size: Option<i64>,
) -> PersistentVolumeClaim {
    let restore_size = restore_size
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(0);
    let size = transfer.spec.volume.capacity.max(restore_size);
    let source = json!({
        "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": names.snapshot(),
    });
    claim(transfer, names, size, &["ReadWriteOnce".to_owned()], Some(source))
}

/// An empty claim for the restored data. It has the access modes of the application's, for the volume behind it will
/// be the application's; a mode that lets nobody write gets one that does.
pub(in crate::transfer) fn claim_for_restore(
    transfer: &VolumeTransfer,
    names: &Names,
) -> PersistentVolumeClaim {
    let volume = &transfer.spec.volume;
    let mut modes: Vec<String> = volume.access_modes.clone();
    if modes.iter().all(|mode| mode == "ReadOnlyMany") {
        modes.push("ReadWriteOnce".to_owned());
    }
    claim(transfer, names, volume.capacity, &modes, None)
}

fn claim(
    transfer: &VolumeTransfer,
    names: &Names,
    size: u64,
    access_modes: &[String],
    data_source: Option<Value>,
) -> PersistentVolumeClaim {
    let mut claim = json!({
        "metadata": owned(transfer, names.claim()),
        "spec": {
            "volumeMode": "Block",
            "storageClassName": transfer.spec.volume.storage_class,
            "accessModes": access_modes,
            "resources": {"requests": {"storage": size.to_string()}},
        },
    });
    if let Some(source) = data_source {
        claim["spec"]["dataSource"] = source;
    }
    serde_json::from_value(claim).expect("the manifest is a claim")
}

#[cfg(test)]
mod tests {
    use super::super::tests::transfer;
    use super::*;

    fn size(claim: &PersistentVolumeClaim) -> String {
        let requests = claim.spec.clone().unwrap().resources.unwrap().requests.unwrap();
        requests["storage"].0.clone()
    }

    #[test]
    fn the_readers_claim_is_as_large_as_the_largest_demand() {
        let transfer = transfer("Backup", json!({"image": "b"}));
        let names = Names::of(&transfer);
        assert_eq!(size(&claim_from_snapshot(&transfer, &names, None)), "1073741824");
        assert_eq!(
            size(&claim_from_snapshot(&transfer, &names, Some(1))),
            "1073741824"
        );
        let larger = claim_from_snapshot(&transfer, &names, Some(2_000_000_000));
        assert_eq!(size(&larger), "2000000000");
        let spec = larger.spec.unwrap();
        assert_eq!(spec.volume_mode.as_deref(), Some("Block"));
        assert_eq!(spec.data_source.unwrap().name, names.snapshot());
    }

    #[test]
    fn the_writers_claim_can_be_written() {
        let mut transfer = transfer("Restore", json!({}));
        let names = Names::of(&transfer);
        let modes = |t: &VolumeTransfer| claim_for_restore(t, &names).spec.unwrap().access_modes.unwrap();
        assert_eq!(modes(&transfer), ["ReadWriteOnce"]);
        transfer.spec.volume.access_modes = vec!["ReadOnlyMany".into()];
        assert_eq!(modes(&transfer), ["ReadOnlyMany", "ReadWriteOnce"]);
        transfer.spec.volume.access_modes = vec!["ReadWriteMany".into()];
        assert_eq!(modes(&transfer), ["ReadWriteMany"]);
    }
}
