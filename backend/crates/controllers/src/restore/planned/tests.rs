use proptest::prelude::*;

use super::*;

fn volume(claim: &str, capacity: u64) -> VolumeRecord {
    serde_json::from_value(json!({
        "claim": claim, "claimUid": "c-1", "home": "c/p/c-1", "generation": 1, "image": "b-a1",
        "capacity": capacity, "volumeMode": "Filesystem", "storageClass": "fast", "driver": "csi.example",
        "accessModes": ["ReadWriteOnce"], "snapshotTime": "2026-01-01T00:00:00Z",
        "chain": [{"id": "b-a1", "kind": "Full", "virtualSize": 1_u64 << 30, "clusterSize": 65536, "shards": [],
            "stored": 1}]}))
    .unwrap()
}

fn terms() -> Terms {
    Terms {
        destination: "new".to_owned(),
        run_uid: "run".to_owned(),
        in_use: BTreeSet::from([("Secret", "keys".to_owned())]),
    }
}

fn captured() -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "old", "labels": {"app": "db"}, "annotations": {"a": "b"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "gone", "volumeName": "pv", "volumeMode": "Block",
            "selector": {"matchLabels": {"a": "b"}}, "dataSource": {"kind": "VolumeSnapshot", "name": "s"},
            "resources": {"requests": {"storage": "1Gi"}}}})
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db"}, "spec": {
        "nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}},
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}})
}

#[test]
fn a_claim_asks_for_the_size_its_volume_will_have() {
    let size = |objects: Vec<Value>, capacity: u64| {
        let planned = plan(objects, &[volume("data", capacity)], &terms()).unwrap();
        let asked = planned.claims_to_ask();
        assert_eq!(asked.len(), 1);
        let claim = json!(planned.claims["data"].manifest);
        assert_eq!(
            asked[0].manifest, claim,
            "what is asked about is what will be made"
        );
        claim["spec"]["resources"]["requests"]["storage"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(size(vec![captured()], 10 << 40), "10995116277760");
    assert_eq!(size(vec![captured()], 5), "1Gi");
    assert_eq!(
        size(vec![], 5),
        (1_u64 << 30).to_string(),
        "the image's size counts too"
    );
    assert_eq!(size(vec![], 2 << 30), (2_u64 << 30).to_string());
}

#[test]
fn a_claim_keeps_what_people_wrote_and_is_of_its_volume_otherwise() {
    let planned = plan(vec![captured(), pod()], &[volume("data", 1)], &terms()).unwrap();
    assert_eq!(
        json!(planned.claims["data"].manifest),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": "new", "labels": {"app": "db"},
                "annotations": {"a": "b", "holdfast.dev/restored-by": "run"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeMode": "Filesystem",
                "resources": {"requests": {"storage": "1Gi"}}}})
    );
    let placement = planned.claims["data"].placement.as_ref().unwrap();
    assert_eq!(placement["nodeSelector"], json!({"disk": "fast"}));
    assert_eq!(planned.len(), 2);
}

#[test]
fn a_claim_that_is_none_is_damage() {
    for (place, value) in [
        ("/metadata/annotations", json!("x")),
        ("/metadata/annotations/a", json!(7)),
        ("/spec", json!("x")),
        ("/spec/resources", json!([7])),
        ("/spec/resources/requests/storage", json!({})),
    ] {
        let mut claim = captured();
        *claim.pointer_mut(place).unwrap() = value;
        let Err(failure) = plan(vec![claim], &[volume("data", 1)], &terms()) else {
            panic!("{place} was accepted")
        };
        assert_eq!(failure.reason, reasons::DAMAGED);
        assert!(failure.message.starts_with("claim data"), "{}", failure.message);
    }
}

#[test]
fn a_size_beyond_every_number_is_counted_with() {
    let planned = plan(vec![], &[volume("a", u64::MAX), volume("b", u64::MAX)], &terms()).unwrap();
    let size = json!(planned.claims["b"].manifest)["spec"]["resources"]["requests"]["storage"].clone();
    assert_eq!(size, json!(u64::MAX.to_string()));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("data")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{0,6}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn places(value: &Value, here: &str, all: &mut Vec<String>) {
    all.push(here.to_owned());
    let mut inside = |key: &str, value: &Value| places(value, &format!("{here}/{key}"), all);
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| inside(key, value)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, v)| inside(&i.to_string(), v)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A claim and what uses it, with anything in any place: planned, or refused as damaged. What is planned can be
    /// asked about, and its pod can be placed.
    #[test]
    fn nothing_in_a_point_stops_the_planning(
        changes in prop::collection::vec((0..4_usize, any::<prop::sample::Index>(), any_json()), 1..5)
    ) {
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "set"}, "spec": {
            "template": {"spec": pod()["spec"].clone()}, "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}});
        let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"}, "spec": {
            "jobTemplate": {"spec": {"template": {"spec": pod()["spec"].clone()}}}}});
        let mut objects = [captured(), pod(), set, cron];
        for (which, place, value) in changes {
            let mut all = Vec::new();
            places(&objects[which], "", &mut all);
            *objects[which].pointer_mut(place.get(&all).as_str()).unwrap() = value;
        }
        let volumes = [volume("data", 5), volume("data-set-0", 5)];
        match plan(objects.to_vec(), &volumes, &terms()) {
            Ok(planned) => prop_assert_eq!(planned.claims_to_ask().len(), 2),
            Err(failure) => prop_assert_eq!(failure.reason, reasons::DAMAGED),
        }
    }

    #[test]
    fn no_bytes_stop_the_decoding(bytes in prop::collection::vec(any::<u8>(), 0..200), said in 0..5_u64) {
        let packed = zstd::bulk::compress(&bytes, 1).unwrap();
        for file in [&bytes[..], &packed, &packed[..packed.len() - 1]] {
            let _ = holdfast_core::objects::weigh(file, said);
            let _ = holdfast_core::objects::objects(file);
        }
    }
}
