//! Manifests from a transfer that holds what a point held, and a point may hold anything.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::transfer;
use super::{HandOver, Names, PodParts, abandoned, application_claim, handed_over, job, replaced};
use crate::MoverSettings;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        "[a-z]{0,8}".prop_map(Value::from),
    ];
    let names = "metadata|annotations|labels|spec|csi|resources|requests|storage|nodeSelector|tolerations|affinity|name";
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_manifest_is_made_or_refused(any in any_json(), mode in "Filesystem|Block") {
        let mut transfer = transfer("Restore", json!({ "claimManifest": any, "placement": any }));
        transfer.spec.volume.volume_mode = mode;
        let names = Names::of(&transfer);
        if let Ok(claim) = application_claim(&transfer, &names) {
            prop_assert_eq!(claim.metadata.name.as_deref(), Some("data"));
            prop_assert_eq!(claim.spec.unwrap().volume_name, Some(names.volume()));
        }
        let from = HandOver { mount_options: &[], class_fs_type: None };
        let volume = handed_over(&transfer, &names, &any, &from);
        prop_assert_eq!(&volume["spec"]["claimRef"]["name"], "data");
        let _ = replaced(&any);
        let condemned = abandoned(&transfer, &any, "uid");
        prop_assert_eq!(&condemned["spec"]["persistentVolumeReclaimPolicy"], "Delete");
        let parts = PodParts { placement: Some(any), ..PodParts::default() };
        if let Ok(job) = job(&transfer, &names, 1, &MoverSettings::of_image("i"), &parts) {
            prop_assert!(job.spec.is_some());
        }
    }
}

#[test]
fn a_placement_that_is_none_is_an_error() {
    let transfer = transfer("Restore", json!({}));
    let parts = PodParts {
        placement: Some(json!({"tolerations": [7]})),
        ..PodParts::default()
    };
    let settings = MoverSettings::of_image("i");
    let error = job(&transfer, &Names::of(&transfer), 1, &settings, &parts).unwrap_err();
    assert!(error.to_string().starts_with("spec.placement"), "{error}");
}
